"""Normalizations, with what they hand out beside the normalized value."""

from __future__ import annotations

from onnxopt.graph.contrib.rules import FLOAT, FactRule, fact_of, same
from onnxopt.graph.facts import Fact
from onnxopt.graph.shape_rules import RuleInputs
from onnxopt.graph.values import int_attribute


def _layer(statistics: int) -> FactRule:
    """Like the input; so many statistics over the axes from `axis` on, in float."""

    def rule(inputs: RuleInputs) -> list[Fact]:
        data = fact_of(inputs, 0)
        if data.dims is None:
            return [data] + [Fact(FLOAT, None)] * statistics
        axis = int_attribute(inputs.node, "axis", -1)
        kept = axis + len(data.dims) if axis < 0 else axis
        dims = data.dims[:kept] + (1,) * (len(data.dims) - kept)
        return [data] + [Fact(FLOAT, dims)] * statistics

    return rule


def _skip(inputs: RuleInputs) -> list[Fact]:
    """Like the input; mean and deviation; the sum before it was normalized."""
    data = fact_of(inputs, 0)
    dims = None if not data.dims else (*data.dims[:-1], 1)
    return [data, Fact(FLOAT, dims), Fact(FLOAT, dims), data]


NORMALIZATION_RULES: dict[str, FactRule] = {
    "GroupNorm": same(),
    "LayerNormalization": _layer(statistics=2),
    "SimplifiedLayerNormalization": _layer(statistics=1),
    "SkipGroupNorm": same(outputs=2),
    "SkipLayerNormalization": _skip,
    "SkipSimplifiedLayerNormalization": _skip,
}
