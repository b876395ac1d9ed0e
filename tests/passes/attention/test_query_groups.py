"""FoldQueryGroups: repeated keys in every spelling, masks, caps, and what is left alone."""

from __future__ import annotations

import pytest
from helpers.attention import BATCHES, MASKS, SCALES, Spelling, attention_model
from helpers.branches import branches_of, in_branches
from helpers.rewriting import assert_refuses, assert_rewrites

from onnxopt.passes.cleanup.unused import RemoveUnused
from onnxopt.passes.fusion.attention.query_groups import FoldQueryGroups


def folded(spelling: Spelling) -> None:
    """Keys are not repeated any more, and the outputs are the same."""
    model = attention_model(spelling)
    tolerance = 2e-3 if spelling.dtype == "float16" else 1e-5
    assert_rewrites(
        FoldQueryGroups(), model, expect=None, rewrites=1, rtol=tolerance, atol=tolerance,
        sizes=BATCHES,
    )  # fmt: skip
    RemoveUnused()(model)
    left = {node.op_type for node in model.graph}
    assert not left & {"Expand", "Tile"}
    assert not any(node.domain for node in model.graph)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("mask", MASKS)
def test_groups_are_folded_when_scale_and_mask_are_anywhere(scale: str, mask: str) -> None:
    folded(Spelling(scale=scale, mask=mask, key_heads=2, past=True))


@pytest.mark.parametrize("repeat", ["expand", "tile", "concat"])
@pytest.mark.parametrize("past", [True, False])
def test_groups_are_folded_when_keys_are_repeated_by(repeat: str, past: bool) -> None:
    folded(Spelling(mask="added", key_heads=2, repeat=repeat, past=past))


def test_one_key_head_for_all_is_folded() -> None:
    folded(Spelling(mask="added", key_heads=1, past=True))


def test_rows_without_keys_are_zeros_when_the_graph_guards_against_nan() -> None:
    folded(Spelling(mask="kept", guard="isnan", empty_rows=True, key_heads=2))


def test_half_precision_is_folded() -> None:
    folded(Spelling(dtype="float16", mask="added", key_heads=2, past=True))


def test_keys_that_are_not_repeated_stay_silently() -> None:
    result = FoldQueryGroups()(attention_model(Spelling(mask="added", past=True)))
    assert not result.modified
    assert not result.refusals


def test_masks_that_hide_nothing_are_refused() -> None:
    model = attention_model(Spelling(mask="kept", key_heads=2))
    low = model.graph.initializers["low"]
    low.const_value = type(low.const_value)(low.const_value.numpy() * 0 - 5, name="low")
    assert_refuses(FoldQueryGroups(), model, "masked scores are -5, not -inf")


@pytest.mark.parametrize("past", [True, False])
def test_subgraph_is_rewritten(past: bool) -> None:
    model = in_branches(attention_model(Spelling(mask="added", key_heads=2, past=past)))
    assert_rewrites(
        FoldQueryGroups(), model, expect=["If"], rewrites=2, rtol=1e-5, atol=1e-5, sizes=BATCHES
    )
    RemoveUnused()(model)
    for branch in branches_of(model):
        assert "Expand" not in [node.op_type for node in branch]
