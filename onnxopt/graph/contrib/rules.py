"""How outputs follow from inputs: what the tables of operators are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from onnxopt.graph import symbolic
from onnxopt.graph.facts import UNKNOWN, Fact
from onnxopt.graph.shape_rules import Dims, RuleInputs, broadcast_dims
from onnxopt.graph.symbolic import Dim

FactRule = Callable[[RuleInputs], list[Fact]]

FLOAT = ir.DataType.FLOAT.value
INT32 = ir.DataType.INT32.value
INT64 = ir.DataType.INT64.value
BOOL = ir.DataType.BOOL.value


def fact_of(inputs: RuleInputs, index: int) -> Fact:
    """The fact of an input; UNKNOWN if it is omitted."""
    fact = inputs.facts[index] if index < len(inputs.facts) else None
    return fact or UNKNOWN


def shape_of(inputs: RuleInputs, index: int, rank: int) -> Dims | None:
    """The dimensions of an input that is known to have so many."""
    dims = inputs.dims(index)
    return dims if dims is not None and len(dims) == rank else None


def same(index: int = 0, outputs: int = 1) -> FactRule:
    """All outputs are like one input."""
    return lambda inputs: [fact_of(inputs, index)] * outputs


def typed(index: int = 0) -> FactRule:
    """Only the element type is known, that of one input."""
    return lambda inputs: [Fact(fact_of(inputs, index).dtype, None)]


def broadcast(*indexes: int, like: int | None = None, dtype: int | None = None) -> FactRule:
    """The broadcast shape of some inputs.

    Args:
        *indexes: The inputs.
        like: The input with the type of the output; the first of `indexes` by default.
        dtype: The type of the output, whatever those of the inputs are.
    """

    def rule(inputs: RuleInputs) -> list[Fact]:
        facts = [fact_of(inputs, index) for index in indexes]
        shapes = [fact.dims for fact in facts if fact.dims is not None]
        dims = broadcast_dims(shapes, inputs.symbols) if len(shapes) == len(facts) else None
        source = facts[0] if like is None else fact_of(inputs, like)
        return [Fact(source.dtype if dtype is None else dtype, dims)]

    return rule


def length(inputs: RuleInputs, index: int) -> Dim | None:
    """The one element of an input, if it is a known size."""
    elements = inputs.elements(index) if inputs.has(index) else None
    if elements is None or len(elements) != 1:
        return None
    size = elements[0]
    return None if isinstance(size, bool) else size


def multiple(dim: Dim, factor: int) -> Dim | None:
    """`dim * factor`."""
    return symbolic.mul(dim, factor)


def share(dim: Dim, count: int) -> Dim | None:
    """`dim / count` where that is exact."""
    return symbolic.exact_div(dim, count) if count > 0 else None


def named(inputs: RuleInputs, dims: Sequence[Dim | None]) -> Dims:
    """The dimensions with fresh symbols where they are not known."""
    return tuple(inputs.named(dim) for dim in dims)


def text_attribute(node: ir.Node, name: str, default: str) -> str:
    """A string attribute or its default."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_string()
