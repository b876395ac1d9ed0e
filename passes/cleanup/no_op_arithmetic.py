"""Arithmetic and logic with a neutral operand, and constants that add up or multiply.

    x + 0, 0 + x, x - 0, x * 1, 1 * x, x / 1, x ** 1    -> x
    And(x, true), Or(x, false), Xor(x, false)           -> x
    Max(x, -inf), Min(x, inf), Clip(x) without bounds   -> x
    Where(true, x, y), Where(c, x, x)                   -> x
    Where(false, x, y)                                  -> y
    Where(c, true, false)                               -> c
    (x + c1) + c2                                       -> x + (c1 + c2)
    (x * c1) * c2                                       -> x * (c1 * c2)

The neutral operand is a constant, or a constant that Expand or ConstantOfShape fills a shape with.
x * 0 stays, since NaN * 0 is NaN. Two differences remain: -0.0 + 0 was 0.0 and is -0.0 now, which
compares equal; and a Clip without bounds, which by the standard clips to the largest finite numbers
of the type, no longer turns an infinity into one of them.

Refused: a neutral operand that would broadcast x to another shape, or whose shape is not provably
covered by that of x; below opset 17 also the scale of ones and the bias of zeros of a decomposed
LayerNormalization, without which ONNX Runtime does not fuse it.

Constants are gathered only if the first result has no other use, the new constant is no larger than
the two and, for floats, only if it is finite and not denormal; it then rounds once instead of
twice, a difference of one unit in the last place (`reassociate` turns this off for floats; integers
wrap around and are exact). What overflowed in between no longer does: (1e20 * 1e30) * 1e-30 was
infinite in float and is 1e20. Subgraphs are rewritten too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnxscript.rewriter.pattern import MatchResult, RewriteRule

from onnxopt.core.passes import RewritePass
from onnxopt.graph.values import broadcasts_into, constant, dims, is_uniform
from onnxopt.passes.cleanup.single_node import (
    NodeRule,
    Source,
    bypass_rules,
    has_input,
    no_match,
    only_user,
    producer_of,
    refuse,
)

# What the two constants may lose against each other before their sum is no longer the same thing.
_CANCELLATION = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class RemoveNoOpArithmetic(RewritePass):
    """Removes x + 0, x * 1, Where(true, x, y) and the like, and adds up constants.

    Attributes:
        reassociate: Also gather float constants, (x * c1) * c2 -> x * (c1 * c2), which rounds
            differently by one unit in the last place.
    """

    name: ClassVar[str] = "remove-no-op-arithmetic"

    reassociate: bool = True

    def rules(self) -> Sequence[RewriteRule]:
        """One rule per op type, then the two that gather constants."""
        gather = [
            _GatherConstants.rule(op_type, combine, self.reassociate)
            for op_type, combine in (("Add", np.add), ("Mul", np.multiply))
        ]
        return [*bypass_rules(_SOURCES), *gather]


def _is_filled(value: ir.Value | None, number: float | bool) -> bool:
    """True if every element of the value is `number`, at whatever size it has."""
    producer = producer_of(value, "Expand", "ConstantOfShape")
    if producer is not None and producer.op_type == "Expand":
        return _is_filled(producer.inputs[0], number)
    if producer is not None:
        fill = producer.attributes.get("value")
        if fill is None:
            return number == 0 and not isinstance(number, bool)
        item = fill.as_tensor().numpy().item()
        # 1 == True in Python, but a float 1 or 0 in a Where is no copy of its condition.
        return bool(item == number) and isinstance(item, bool) == isinstance(number, bool)
    if isinstance(number, bool):
        array = constant(value)
        if array is None or array.dtype.kind != "b" or array.size == 0:
            return False
        return bool(np.all(array == number))
    return is_uniform(value, number)


def _covers(x: ir.Value | None, *others: ir.Value | None) -> bool:
    """True if broadcasting x with the others provably leaves the shape of x as it is."""
    shapes = [dims(other) for other in others]
    return all(shape == () or (shape is not None and broadcasts_into(shape, x)) for shape in shapes)


def _kept(x: ir.Value | None, version: int, *others: ir.Value | None) -> ir.Value | str | None:
    # Before opset 7 the second operand broadcasts into the first and never the other way.
    if version < 7 or _covers(x, *others):
        return x
    # Arithmetic on sizes has thousands of these before its constants are folded.
    if x is not None and x.dtype is not None and x.dtype.is_integer():
        return None
    return "the neutral operand may broadcast the other one to a larger shape"


def _neutral(number: float | bool, *, either_side: bool) -> Source:
    def source(node: ir.Node, version: int) -> ir.Value | str | None:
        first, second = node.inputs[:2]
        if _is_filled(second, number):
            kept = _kept(first, version, second)
        elif either_side and version >= 7 and _is_filled(first, number):
            kept = _kept(second, version, first)
        else:
            return None
        if isinstance(kept, ir.Value) and version < 17 and _is_normalized(kept):
            return "it is the scale or bias that ONNX Runtime's LayerNormalization fusion needs"
        return kept

    return source


def _is_normalized(value: ir.Value) -> bool:
    """True for a / sqrt(b), scaled or not: the end of a decomposed LayerNormalization.

    ONNX Runtime fuses it at load, five nodes into one, only if a scale and a bias follow.
    """
    scale = producer_of(value, "Mul")
    for candidate in (value, *(scale.inputs if scale is not None else ())):
        division = producer_of(candidate, "Div")
        if division is not None and producer_of(division.inputs[1], "Sqrt") is not None:
            return True
    return False


def _extreme(node: ir.Node, version: int) -> ir.Value | str | None:
    if len(node.inputs) != 2 or node.inputs[0] is None or node.inputs[0].dtype is None:
        return None
    sign = -1 if node.op_type == "Max" else 1
    limit: float = sign * np.inf
    if node.inputs[0].dtype.is_integer():
        info = np.iinfo(node.inputs[0].dtype.numpy())
        limit = info.min if sign < 0 else info.max
    return _neutral(limit, either_side=True)(node, version)


def _clip(node: ir.Node, version: int) -> ir.Value | None:
    for index, name, sign in ((1, "min", -1), (2, "max", 1)):
        if name in node.attributes:
            unbounded = node.attributes[name].as_float() == sign * np.inf
        else:
            unbounded = not has_input(node, index) or is_uniform(node.inputs[index], sign * np.inf)
        if not unbounded:
            return None
    return node.inputs[0]


def _where(node: ir.Node, version: int) -> ir.Value | str | None:
    condition, x, y = node.inputs
    if x is y:
        return _kept(x, version, condition)
    if _is_filled(condition, True):
        return _kept(x, version, condition, y)
    if _is_filled(condition, False):
        return _kept(y, version, condition, x)
    if _is_filled(x, True) and _is_filled(y, False):
        return _kept(condition, version, x, y)
    return None


class _GatherConstants(NodeRule):
    """`(x op c1) op c2 -> x op (c1 op c2)` for Add and Mul."""

    def __init__(self, op_type: str, combine: Callable[..., Any], floats: bool) -> None:
        super().__init__(op_type, f"gather-{op_type.lower()}-constants")
        self._combine = combine
        self._floats = floats

    def check(self, context: Any, root: ir.Value) -> MatchResult:
        """The constants, their sizes and what rounding does to them."""
        node = context.root
        operands = _operand_and_constant(node)
        inner = None if operands is None else producer_of(operands[0], self.op_type)
        inner_operands = None if inner is None else _operand_and_constant(inner)
        if operands is None or inner is None or inner_operands is None:
            return no_match()
        first, second = inner_operands[1], operands[1]
        is_float = first.dtype.kind == "f"
        if first.dtype.kind not in "iuf" or (is_float and not self._floats):
            return no_match()
        if node.attributes or inner.attributes:  # how operands broadcast before opset 7
            return no_match()
        if not only_user(inner.outputs[0]):
            return refuse("the result before the second constant has other uses", node)
        merged = self._merged(first, second)
        if merged.size > max(first.size, second.size):
            return refuse("the two constants together would be larger than each of them", node)
        if is_float and not self._rounds_well(first, second, merged):
            return refuse("the two constants cancel, overflow or underflow", node)
        return MatchResult()

    def rewrite(self, op: Any, root: ir.Value) -> Any:
        """One operator with the merged constant."""
        node = root.producer()
        assert node is not None
        operands = _operand_and_constant(node)
        inner = None if operands is None else operands[0].producer()
        inner_operands = None if inner is None else _operand_and_constant(inner)
        assert operands is not None
        assert inner_operands is not None
        merged = ir.tensor(self._merged(inner_operands[1], operands[1]))
        constant_value = op.initializer(merged, name=f"{root.name}_constant")
        return op.op(self.op_type, inner_operands[0], constant_value)

    def _merged(self, first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
        if first.dtype.kind != "f":
            with np.errstate(over="ignore"):
                return np.asarray(self._combine(first, second), first.dtype)
        with np.errstate(over="ignore"):
            exact = self._combine(first.astype(np.float64), second.astype(np.float64))
            return np.asarray(exact, first.dtype)

    def _rounds_well(self, first: NDArray[Any], second: NDArray[Any], merged: NDArray[Any]) -> bool:
        size = np.abs(merged)
        if self.op_type == "Add":
            larger = np.maximum(np.abs(first), np.abs(second))
            return bool(np.all(np.isfinite(merged)) and np.all(size >= _CANCELLATION * larger))
        normal = (size >= np.finfo(merged.dtype).tiny) | (first == 0) | (second == 0)
        return bool(np.all(np.isfinite(merged)) and np.all(normal))


def _operand_and_constant(node: ir.Node) -> tuple[ir.Value, NDArray[Any]] | None:
    """The computed operand and the constant one, in either order."""
    first, second = node.inputs[:2]
    for operand, other in ((first, second), (second, first)):
        array = constant(other)
        if array is not None and operand is not None and constant(operand) is None:
            return operand, array
    return None


_SOURCES: dict[str, Source] = {
    "Add": _neutral(0, either_side=True),
    "Sub": _neutral(0, either_side=False),
    "Mul": _neutral(1, either_side=True),
    "Div": _neutral(1, either_side=False),
    "Pow": _neutral(1, either_side=False),
    "And": _neutral(True, either_side=True),
    "Or": _neutral(False, either_side=True),
    "Xor": _neutral(False, either_side=True),
    "Max": _extreme,
    "Min": _extreme,
    "Clip": _clip,
    "Where": _where,
}
