"""Output shapes where dimensions are symbolic or shape inputs only partly known.

onnx's inference handles integers and copies named dimensions, but gives up where it would have to
compute with them. A rule returns None where it knows no better than onnx's inference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from onnxopt.graph import symbolic
from onnxopt.graph.facts import Fact
from onnxopt.graph.symbolic import Dim, Symbols
from onnxopt.graph.values import int_attribute, ints_attribute

Elements = Sequence[Dim | bool | None]
Dims = tuple[Dim, ...]


class RuleInputs:
    """What a rule sees of a node: facts, known elements of the shape inputs, fresh symbols."""

    def __init__(
        self,
        node: ir.Node,
        facts: Sequence[Fact | None],
        elements: Callable[[int], Elements | None],
        symbols: Symbols,
        opset: int,
    ) -> None:
        self.node = node
        self.facts = facts
        self.elements = elements
        self.symbols = symbols
        self.opset = opset

    def dims(self, index: int) -> Dims | None:
        """Dimensions of an input, None if it is omitted or has no known rank."""
        fact = self.facts[index] if index < len(self.facts) else None
        return None if fact is None else fact.dims

    def has(self, index: int) -> bool:
        """True if the input is not omitted."""
        return index < len(self.facts) and self.facts[index] is not None

    def named(self, dim: Dim | bool | None) -> Dim:
        """The dimension, or a fresh symbol where it is unknown."""
        return self.symbols.fresh() if dim is None else dim

    def length(self, index: int) -> int | None:
        """Number of elements of a 1-d input."""
        dims = self.dims(index)
        return dims[0] if dims is not None and len(dims) == 1 and isinstance(dims[0], int) else None


Rule = Callable[[RuleInputs], list[Dims] | None]


def broadcast_dims(shapes: Sequence[Dims], symbols: Symbols) -> Dims:
    """The shape that several shapes broadcast to."""
    result = shapes[0]
    for shape in shapes[1:]:
        if shape == result:
            continue
        rank = max(len(result), len(shape))
        first = (1,) * (rank - len(result)) + result
        second = (1,) * (rank - len(shape)) + shape
        dims: list[Dim] = []
        for a, b in zip(first, second, strict=True):
            dim = symbolic.broadcast(a, b)
            if dim is None:
                dim = symbols.keyed(("broadcast", *sorted((str(a), str(b)))))
            dims.append(dim)
        result = tuple(dims)
    return result


def _broadcasting(inputs: RuleInputs) -> list[Dims] | None:
    shapes = [inputs.dims(i) for i in range(len(inputs.facts))]
    if inputs.opset < 7 and inputs.node.op_type not in ("Sum", "Mean", "Max", "Min"):
        return None if shapes[0] is None else [shapes[0]]
    known = [shape for shape in shapes if shape is not None]
    return [broadcast_dims(known, inputs.symbols)] if len(known) == len(shapes) else None


def _reshape(inputs: RuleInputs) -> list[Dims] | None:
    data, target = inputs.dims(0), inputs.elements(1)
    if target is None:
        length = inputs.length(1)
        return None if length is None else [tuple(inputs.symbols.fresh() for _ in range(length))]
    allow_zero = bool(int_attribute(inputs.node, "allowzero", 0))
    dims: list[Dim | None] = []
    inferred: int | None = None
    for index, item in enumerate(target):
        if isinstance(item, int) and item == 0 and not allow_zero:
            dims.append(data[index] if data is not None and index < len(data) else None)
        elif isinstance(item, int) and item < 0:
            inferred = index
            dims.append(None)
        elif (
            item is not None
            and symbolic.is_at_least(item, 0)
            and (allow_zero or _is_size(item, index, data))
        ):
            dims.append(item)
        else:
            dims.append(None)
    unknown = [index for index, dim in enumerate(dims) if dim is None]
    if len(unknown) == 1 and data is not None and (inferred is None or unknown == [inferred]):
        dims[unknown[0]] = _rest(data, [dim for dim in dims if dim is not None])
    if any(dim is None for dim in dims) and data is not None and None not in target:
        key = ("reshape", data, tuple(target), allow_zero)
        return [
            tuple(
                dim if dim is not None else inputs.symbols.keyed((*key, i))
                for i, dim in enumerate(dims)
            )
        ]
    return [tuple(inputs.named(dim) for dim in dims)]


def _is_size(item: Dim, index: int, data: Dims | None) -> bool:
    """True if an element >= 0 of Reshape's target is the size that comes out.

    A symbol that is zero in a run copies the input's dimension there, which is zero as well if it
    is a multiple of the symbol. Elsewhere a symbol counts as the size if the input is empty
    whenever it is zero, as T in `[N, T, 4, 8] -> [N, 4, T, 8]`. That is a limit: in a run over such
    an empty input, where the target has a -1 or a second zero, the dimension may be another one.
    Without it the dynamic shapes of attention would be lost.
    """
    if symbolic.is_at_least(item, 1) or (data is not None and index >= len(data)):
        return True  # zero has nothing to copy there, so that the model fails
    if data is None:
        return False
    return item in data or symbolic.exact_div(symbolic.product(data) or 1, item) is not None


def _rest(data: Dims, others: Sequence[Dim]) -> Dim | None:
    """The dimension that keeps the number of elements."""
    # Equal factors cancel even where they may be zero: then the quotient is the other side's guess.
    left, right = list(data), list(others)
    for dim in others:
        if dim in left and dim != 0:
            left.remove(dim)
            right.remove(dim)
    numerator, denominator = symbolic.product(left), symbolic.product(right)
    if numerator is None or denominator is None or denominator == 0:
        return None
    return symbolic.exact_div(numerator, denominator)


def _expand(inputs: RuleInputs) -> list[Dims] | None:
    data, target = inputs.dims(0), inputs.elements(1)
    if data is None:
        return None
    if target is None:
        length = inputs.length(1)
        if length is None:
            return None
        target = [None] * length
    rank = max(len(data), len(target))
    first = (1,) * (rank - len(data)) + data
    second = [1] * (rank - len(target)) + list(target)
    dims: list[Dim] = []
    for a, b in zip(first, second, strict=True):
        if b is None:
            dims.append(a if isinstance(a, int) and a != 1 else inputs.symbols.fresh())
            continue
        dim = symbolic.broadcast(a, b)
        key = ("broadcast", *sorted((str(a), str(b))))
        dims.append(inputs.symbols.keyed(key) if dim is None else dim)
    return [tuple(dims)]


def _constant_of_shape(inputs: RuleInputs) -> list[Dims] | None:
    target = inputs.elements(0)
    if target is None:
        length = inputs.length(0)
        return None if length is None else [tuple(inputs.symbols.fresh() for _ in range(length))]
    return [tuple(inputs.named(item) for item in target)]


def _range(inputs: RuleInputs) -> list[Dims] | None:
    ends = [inputs.elements(i) for i in range(3)]
    start, limit, delta = (items[0] if items else None for items in ends)
    if delta == 1 and start is not None and limit is not None:
        length = symbolic.sub(limit, start)
        if length is not None and symbolic.is_at_least(length, 0):
            return [(length,)]
        return [(inputs.symbols.keyed(("range", start, limit)),)]
    return [(inputs.symbols.fresh(),)]


def _total(sizes: Sequence[Dim]) -> Dim | None:
    total: Dim | None = 0
    for size in sizes:
        total = None if total is None else symbolic.add(total, size)
    return total


def _concat(inputs: RuleInputs) -> list[Dims] | None:
    shapes = [inputs.dims(i) for i in range(len(inputs.facts))]
    known = [shape for shape in shapes if shape is not None]
    if not known:
        return None
    rank = len(known[0])
    if any(len(shape) != rank for shape in known) or not rank:
        return None
    axis = int_attribute(inputs.node, "axis", 1) % rank
    complete = len(known) == len(shapes)
    # Only parts with elements must agree on the other axes; runtimes take empty ones of any shape.
    full = next((shape for shape in known if all(symbolic.is_at_least(d, 1) for d in shape)), None)
    dims: list[Dim] = []
    for i in range(rank):
        sizes = tuple(shape[i] for shape in known)
        dim: Dim | None = None
        if i == axis:
            dim = _total(sizes) if complete else None
        elif full is not None:
            dim = full[i]
        elif complete and len(set(sizes)) == 1:
            dim = sizes[0]
        if dim is None:
            key = ("concat", axis, i, tuple(known))
            dim = inputs.symbols.keyed(key) if complete else inputs.symbols.fresh()
        dims.append(dim)
    return [tuple(dims)]


def _split(inputs: RuleInputs) -> list[Dims] | None:
    data = inputs.dims(0)
    if data is None or not data:
        return None
    count = len(inputs.node.outputs)
    axis = int_attribute(inputs.node, "axis", 0) % len(data)
    sizes: Elements | None = ints_attribute(inputs.node, "split")
    if inputs.has(1):
        sizes = inputs.elements(1)
    elif sizes is None:
        total = data[axis]
        if isinstance(total, int):
            return None  # onnx's inference knows what each opset does with a remainder
        part = symbolic.exact_div(total, count)
        sizes = [part] * count
    if sizes is None or len(sizes) != count:
        sizes = [None] * count
    return [(*data[:axis], inputs.named(size), *data[axis + 1 :]) for size in sizes]


def _tile(inputs: RuleInputs) -> list[Dims] | None:
    data, repeats = inputs.dims(0), inputs.elements(1)
    if data is None or inputs.opset < 6:
        return None
    if repeats is None or len(repeats) != len(data):
        return [tuple(inputs.symbols.fresh() for _ in data)]
    return [
        tuple(
            inputs.named(None if repeat is None else symbolic.mul(dim, repeat))
            for dim, repeat in zip(data, repeats, strict=True)
        )
    ]


def _flatten(inputs: RuleInputs) -> list[Dims] | None:
    data = inputs.dims(0)
    if data is None:
        return None
    axis = int_attribute(inputs.node, "axis", 1)
    axis = axis + len(data) if axis < 0 else axis
    left, right = symbolic.product(data[:axis]), symbolic.product(data[axis:])
    return [(inputs.named(left), inputs.named(right))]


def _matmul(inputs: RuleInputs) -> list[Dims] | None:
    a, b = inputs.dims(0), inputs.dims(1)
    if not a or not b:
        return None
    rows = a[-2:-1] if len(a) > 1 else ()
    columns = b[-1:] if len(b) > 1 else ()
    return [(*broadcast_dims([a[:-2], b[:-2]], inputs.symbols), *rows, *columns)]


def _topk(inputs: RuleInputs) -> list[Dims] | None:
    data, count = inputs.dims(0), inputs.elements(1)
    if not data or count is None or len(count) != 1:
        return None
    axis = int_attribute(inputs.node, "axis", -1) % len(data)
    dims = (*data[:axis], inputs.named(count[0]), *data[axis + 1 :])
    return [dims, dims]


_BROADCASTING = (
    "Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less "
    "LessOrEqual Max Mean Min Mod Mul Or Pow Sub Sum Where Xor"
)
SHAPE_RULES: dict[str, Rule] = {
    **dict.fromkeys(_BROADCASTING.split(), _broadcasting),
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Flatten": _flatten,
    "MatMul": _matmul,
    "Range": _range,
    "Reshape": _reshape,
    "Split": _split,
    "Tile": _tile,
    "TopK": _topk,
}
