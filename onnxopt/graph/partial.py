"""Small integer tensors of which some elements are known, as shape computations produce them.

A partial tensor is an object array whose elements are integers, booleans, expressions over symbols
(text, see `symbolic`) or None where nothing is known. Operators that only move elements are run by
the real evaluator on element numbers; arithmetic works element by element.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxopt.graph import symbolic
from onnxopt.graph.evaluation import NotEvaluatedError, evaluate
from onnxopt.graph.symbolic import Dim
from onnxopt.graph.values import int_attribute

Partial = NDArray[Any]
Element = int | bool | str | None

# Shapes and the index tensors around them; more elements would cost more than they tell.
MOST_ELEMENTS = 1024

_INTEGERS = frozenset(dtype for dtype in ir.DataType if dtype.is_integer())

# Operators that move elements, with the inputs whose elements they move (None: all of them).
_MOVING: Mapping[str, tuple[int, ...] | None] = {
    "Compress": (0,),
    "Concat": None,
    "Expand": (0,),
    "Flatten": (0,),
    "Gather": (0,),
    "GatherElements": (0,),
    "GatherND": (0,),
    "Identity": (0,),
    "Reshape": (0,),
    "ScatterElements": (0, 2),
    "ScatterND": (0, 2),
    "Slice": (0,),
    "Split": (0,),
    "Squeeze": (0,),
    "Tile": (0,),
    "Transpose": (0,),
    "Unsqueeze": (0,),
}


def has_rule(node: ir.Node) -> bool:
    """True if `compute` can do anything with nodes of this operator."""
    return node.op_type in _MOVING or node.op_type in _RULES


def compute(
    node: ir.Node,
    inputs: Sequence[Partial | None],
    known: Sequence[NDArray[Any] | None],
    opset: int,
) -> list[Partial] | None:
    """The partial outputs of a node of the default domain, or None if the operator has no rule.

    Args:
        node: The node.
        inputs: One partial tensor for each input; None where it is omitted or unknown.
        known: The inputs of which every element is known.
        opset: Version of the default domain.
    """
    op_type = node.op_type
    if op_type in _MOVING:
        return _move(node, inputs, known, opset)
    rule = _RULES.get(op_type)
    if rule is None or any(array is None for array in inputs):
        return None
    result = rule(node, [array for array in inputs if array is not None])
    return None if result is None or result.size > MOST_ELEMENTS else [result]


def as_partial(items: Sequence[Element], shape: tuple[int, ...] | None = None) -> Partial:
    """A partial tensor from its elements; 1-d unless a shape is given."""
    array = np.empty(len(items), object)
    array[:] = items
    return array if shape is None else array.reshape(shape)


def in_range(array: Partial, dtype: ir.DataType) -> Partial:
    """The tensor, with None for what its element type cannot hold: it wraps around at run time."""
    if dtype == ir.DataType.BOOL:
        return array
    limits = np.iinfo(dtype.numpy())
    items = array.reshape(-1).tolist()
    if all(not isinstance(item, int) or limits.min <= item <= limits.max for item in items):
        return array
    return as_partial(
        [
            None if isinstance(item, int) and not limits.min <= item <= limits.max else item
            for item in items
        ],
        array.shape,
    )


def is_fully_known(array: Partial) -> bool:
    """True if no element is symbolic or unknown."""
    return all(isinstance(item, int) for item in array.reshape(-1).tolist())


def _move(
    node: ir.Node,
    inputs: Sequence[Partial | None],
    known: Sequence[NDArray[Any] | None],
    opset: int,
) -> list[Partial] | None:
    if node.op_type.startswith("Scatter") and node.attributes.get("reduction") is not None:
        return None
    moved = _MOVING[node.op_type]
    numbered: list[NDArray[Any] | None] = []
    elements: list[Element] = []
    for index, array in enumerate(inputs):
        if moved is None or index in moved:
            if array is None:
                return None
            numbers = np.arange(len(elements), len(elements) + array.size, dtype=np.int64)
            numbered.append(numbers.reshape(array.shape))
            elements.extend(array.reshape(-1).tolist())
        elif node.inputs[index] is None:
            numbered.append(None)
        elif known[index] is None:
            return None
        else:
            numbered.append(known[index])
    try:
        results = evaluate(node, numbered, opset, [ir.DataType.INT64] * len(node.outputs))
    except NotEvaluatedError:
        return None
    if sum(result.size for result in results) > MOST_ELEMENTS:
        return None
    return [
        as_partial([elements[i] for i in result.reshape(-1).tolist()], result.shape)
        for result in results
    ]


def _elementwise(function: Callable[[Any, Any], Any]) -> Callable[..., Partial]:
    """`function` over broadcast arrays, None wherever an operand is None."""

    def guarded(first: Element, second: Element) -> Element:
        if first is None or second is None:
            return None
        with np.errstate(all="ignore"):  # of computed shapes: nobody has to see a division by zero
            result: Element = function(first, second)
        return result

    applied = np.frompyfunc(guarded, 2, 1)

    def over_arrays(first: Partial, second: Partial) -> Partial:
        return np.asarray(applied(first, second), object)

    return over_arrays


def _multiply(first: Element, second: Element) -> Element:
    if first == 0 or second == 0:
        return 0  # whatever the other one is
    return None if first is None or second is None else symbolic.mul(first, second)


_ADD, _SUB = _elementwise(symbolic.add), _elementwise(symbolic.sub)
_DIV, _MOD = _elementwise(symbolic.div), _elementwise(symbolic.mod)
_MIN, _MAX = _elementwise(symbolic.smaller), _elementwise(symbolic.larger)
_EQUAL, _LESS = _elementwise(symbolic.equal), _elementwise(symbolic.less)
_AND = _elementwise(lambda a, b: bool(a and b))
_OR = _elementwise(lambda a, b: bool(a or b))
_MULTIPLY = np.frompyfunc(_multiply, 2, 1)
_NOT = np.frompyfunc(lambda a: None if a is None else not a, 1, 1)
_SELECT = np.frompyfunc(
    lambda c, a, b: (a if a == b else None) if c is None else a if c else b, 3, 1
)


def _mul(first: Partial, second: Partial) -> Partial:
    return np.asarray(_MULTIPLY(first, second), object)


def _not(array: Partial) -> Partial:
    return np.asarray(_NOT(array), object)


def _div_rule(node: ir.Node, inputs: list[Partial]) -> Partial | None:
    return _DIV(*inputs)


def _mod_rule(node: ir.Node, inputs: list[Partial]) -> Partial | None:
    return None if int_attribute(node, "fmod", 0) else _MOD(*inputs)


def _cast(node: ir.Node, inputs: list[Partial]) -> Partial | None:
    target = ir.DataType(int_attribute(node, "to", 0))
    array = inputs[0]
    items = array.reshape(-1).tolist()
    if target == ir.DataType.BOOL:
        return as_partial([_truth(item) for item in items], array.shape)
    if target not in _INTEGERS:
        return None
    # What does not surely fit in the narrower type is not known after the cast.
    limits = np.iinfo(target.numpy())
    wide = target in (ir.DataType.INT64, ir.DataType.INT32)
    return as_partial(
        [
            int(item)
            if isinstance(item, int) and limits.min <= item <= limits.max
            # Dimensions and what is computed from them stay far below 2**31.
            else item
            if isinstance(item, str) and wide
            else None
            for item in items
        ],
        array.shape,
    )


def _truth(item: Element) -> bool | None:
    if item is None:
        return None
    is_zero = symbolic.equal(item, 0)
    return None if is_zero is None else not is_zero


def _reduce(step: Callable[[Partial, Partial], Partial], empty: int | None) -> Any:
    def rule(node: ir.Node, inputs: list[Partial]) -> Partial | None:
        array = inputs[0]
        axes = inputs[1].tolist() if len(inputs) > 1 else node.attributes.get("axes")
        if isinstance(axes, ir.Attr):
            axes = list(axes.as_ints())
        if array.ndim != 1 or (axes is not None and axes not in ([0], [-1])):
            return None
        total: Partial | None = None if empty is None else as_partial([empty])
        for item in array.tolist():
            element = as_partial([item])
            total = element if total is None else step(total, element)
        if total is None:
            return None
        return total if int_attribute(node, "keepdims", 1) else total.reshape(())

    return rule


def _folded(step: Callable[[Partial, Partial], Partial]) -> Any:
    def rule(node: ir.Node, inputs: list[Partial]) -> Partial | None:
        total = inputs[0]
        for array in inputs[1:]:
            total = step(total, array)
        return total

    return rule


_RULES: Mapping[str, Callable[[ir.Node, list[Partial]], Partial | None]] = {
    "Add": lambda node, arrays: _ADD(*arrays),
    "And": lambda node, arrays: _AND(*arrays),
    "Cast": _cast,
    "Div": _div_rule,
    "Equal": lambda node, arrays: _EQUAL(*arrays),
    "Greater": lambda node, arrays: _LESS(arrays[1], arrays[0]),
    "GreaterOrEqual": lambda node, arrays: _not(_LESS(*arrays)),
    "Less": lambda node, arrays: _LESS(*arrays),
    "LessOrEqual": lambda node, arrays: _not(_LESS(arrays[1], arrays[0])),
    "Max": _folded(_MAX),
    "Min": _folded(_MIN),
    "Mod": _mod_rule,
    "Mul": lambda node, arrays: _mul(*arrays),
    "Neg": lambda node, arrays: _SUB(as_partial([0], ()), arrays[0]),
    "Not": lambda node, arrays: _not(arrays[0]),
    "Or": lambda node, arrays: _OR(*arrays),
    "ReduceMax": _reduce(_MAX, None),
    "ReduceMin": _reduce(_MIN, None),
    "ReduceProd": _reduce(_mul, 1),
    "ReduceSum": _reduce(_ADD, 0),
    "Sub": lambda node, arrays: _SUB(*arrays),
    "Where": lambda node, arrays: np.asarray(_SELECT(*arrays), object),
}


def size_of(dims: Sequence[Dim]) -> Partial:
    """What Size gives for a shape."""
    return as_partial([symbolic.product(dims)], ())
