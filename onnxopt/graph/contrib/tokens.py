"""What transformers do around attention: padding, embeddings, biases of relative positions."""

from __future__ import annotations

from onnxopt.graph import symbolic
from onnxopt.graph.contrib.rules import (
    INT32,
    FactRule,
    fact_of,
    length,
    named,
    same,
    shape_of,
)
from onnxopt.graph.facts import Fact
from onnxopt.graph.shape_rules import RuleInputs
from onnxopt.graph.values import int_attribute


def _embed_normalization(like: int) -> FactRule:
    """The output, the number of tokens of each sequence, the sum before it was normalized.

    Args:
        like: The input with the type of the floats.
    """

    def rule(inputs: RuleInputs) -> list[Fact]:
        dtype = fact_of(inputs, like).dtype
        ids, table = shape_of(inputs, 0, 2), shape_of(inputs, 2, 2)
        if ids is None or table is None:
            return [Fact(dtype, None), Fact(INT32, None), Fact(dtype, None)]
        output = Fact(dtype, (*ids, table[1]))
        return [output, Fact(INT32, ids[:1]), output]

    return rule


def _relative_position_bias(inputs: RuleInputs) -> list[Fact]:
    table, dtype = shape_of(inputs, 0, 2), fact_of(inputs, 0).dtype
    heads = None if table is None else table[1]
    return [Fact(dtype, named(inputs, (1, heads, length(inputs, 1), length(inputs, 2))))]


def _gated_relative_position_bias(inputs: RuleInputs) -> list[Fact]:
    """With packed tokens, their places `[batch, sequence]` say how long the sequences are."""
    query, dtype = inputs.dims(0), fact_of(inputs, 0).dtype
    places = shape_of(inputs, 6, 2)
    lead = places or query
    if lead is None or len(lead) < 2 or (places is None and inputs.has(6)):
        return [Fact(dtype, None)]
    heads = int_attribute(inputs.node, "num_heads", 0)
    return [Fact(dtype, (lead[0], heads, lead[1], lead[1]))]


def _remove_padding(inputs: RuleInputs) -> list[Fact]:
    data, dtype = shape_of(inputs, 0, 3), fact_of(inputs, 0).dtype
    batch, sequence, size = data or (None, None, None)
    ends = None if batch is None else symbolic.add(batch, 1)
    return [
        Fact(dtype, named(inputs, (None, size))),
        Fact(INT32, named(inputs, (batch, sequence))),
        Fact(INT32, named(inputs, (ends,))),
        Fact(INT32, (1,)),
    ]


def _restore_padding(inputs: RuleInputs) -> list[Fact]:
    data, places = shape_of(inputs, 0, 2), shape_of(inputs, 1, 2)
    size = None if data is None else data[1]
    lead = places or (None, None)
    return [Fact(fact_of(inputs, 0).dtype, named(inputs, (*lead, size)))]


def _torch_embedding(inputs: RuleInputs) -> list[Fact]:
    table, ids = shape_of(inputs, 0, 2), inputs.dims(1)
    known = table is not None and ids is not None
    dims = (*ids, table[1]) if known and ids is not None and table is not None else None
    return [Fact(fact_of(inputs, 0).dtype, dims)]


TOKEN_RULES: dict[str, FactRule] = {
    "EmbedLayerNormalization": _embed_normalization(like=2),
    "GatedRelativePositionBias": _gated_relative_position_bias,
    "NGramRepeatBlock": same(1),
    "QEmbedLayerNormalization": _embed_normalization(like=8),
    "RelativePositionBias": _relative_position_bias,
    "RemovePadding": _remove_padding,
    "RestorePadding": _restore_padding,
    "TorchEmbedding": _torch_embedding,
}
