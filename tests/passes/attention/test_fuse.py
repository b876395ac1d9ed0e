"""FuseAttention: every spelling, caches, mutations that still fuse, and refusals with reasons."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from helpers.attention import (
    BATCHES,
    BETWEEN,
    KEYS,
    MASKS,
    SCALES,
    SIZES,
    Spelling,
    attention_model,
)
from helpers.branches import branches_of, in_branches
from helpers.rewriting import assert_refuses, assert_rewrites, op_types, parse_model

from onnxopt.core.errors import InvalidInputError
from onnxopt.graph.inference import infer_model
from onnxopt.passes.fusion.attention.fuse import FuseAttention

MULTI = FuseAttention(operators=("MultiHeadAttention",))
GROUPED = FuseAttention(single_prompts=True)


def fused(spelling: Spelling, pass_: FuseAttention = MULTI, rewrites: int = 1) -> None:
    """One fused operator stands for the attention, which computes the same."""
    sizes = SIZES if pass_ is GROUPED else BATCHES
    model = attention_model(spelling)
    tolerance = 2e-3 if spelling.dtype == "float16" else 1e-5
    assert_rewrites(
        pass_, model, expect=None, rewrites=rewrites, rtol=tolerance, atol=tolerance, sizes=sizes,
        check=False,
    )  # fmt: skip
    operators = [node.op_type for node in model.graph]
    assert "Softmax" not in operators
    assert sum(node.domain == "com.microsoft" for node in model.graph) == 1


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("mask", MASKS)
def test_attention_is_fused_when_scale_and_mask_are_anywhere(scale: str, mask: str) -> None:
    fused(Spelling(scale=scale, mask=mask))


@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize("key", KEYS)
def test_attention_is_fused_when_nodes_are_between_and_keys_take_detours(
    between: str, key: str
) -> None:
    fused(Spelling(between=between, key=key, mask="added"))


@pytest.mark.parametrize("mask", ["added", "kept", "dropped"])
def test_rows_without_keys_are_zeros_when_the_graph_guards_against_nan(mask: str) -> None:
    fused(Spelling(guard="isnan", mask=mask, empty_rows=True))


def test_half_precision_is_fused() -> None:
    fused(Spelling(dtype="float16", mask="added"))


@pytest.mark.parametrize(
    ("scale", "mask"), list(itertools.product(["scores", "both"], ["added", "kept", "dropped"]))
)
@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_cache_is_fused_when_the_mask_is_causal(scale: str, mask: str, key_heads: int) -> None:
    fused(Spelling(past=True, scale=scale, mask=mask, key_heads=key_heads), GROUPED, rewrites=3)


@pytest.mark.parametrize("repeat", ["expand", "tile", "concat"])
def test_repeated_keys_are_read_through(repeat: str) -> None:
    fused(Spelling(past=True, mask="added", key_heads=2, repeat=repeat), GROUPED, rewrites=3)


def test_cache_goes_to_multi_head_attention_when_a_batch_of_prompts_is_possible() -> None:
    fused(Spelling(past=True, mask="added"), FuseAttention(), rewrites=3)


def test_cache_goes_to_multi_head_attention_when_the_mask_is_not_causal() -> None:
    fused(Spelling(past=True, mask="added", causal=False), GROUPED, rewrites=3)


@pytest.mark.parametrize("key_heads", [1, 2])
@pytest.mark.parametrize("mask", MASKS)
def test_shared_keys_go_to_multi_head_attention_when_the_masks_are_any(
    mask: str, key_heads: int
) -> None:
    fused(Spelling(past=True, mask=mask, key_heads=key_heads, causal=False), FuseAttention())


@pytest.mark.parametrize("repeat", ["expand", "tile", "concat"])
def test_shared_keys_are_fused_when_there_is_no_cache(repeat: str) -> None:
    fused(Spelling(mask="added", key_heads=2, repeat=repeat))


def test_shared_keys_of_half_precision_and_empty_rows_are_fused() -> None:
    fused(Spelling(past=True, mask="added", key_heads=2, dtype="float16"))
    fused(Spelling(mask="kept", key_heads=2, guard="isnan", empty_rows=True))


def test_grouped_keys_are_fused_when_the_batch_is_one() -> None:
    fused(
        Spelling(past=True, mask="added", key_heads=2, batch="1"),
        FuseAttention(),
        rewrites=3,
    )


@pytest.mark.parametrize(
    ("options", "reason"), [({}, "single-prompts=true"), ({"causal": False}, "provably causal")]
)
def test_group_query_attention_is_refused_when_it_would_compute_something_else(
    options: dict[str, bool], reason: str
) -> None:
    pass_ = FuseAttention(operators=("GroupQueryAttention",), single_prompts=bool(options))
    model = attention_model(Spelling(past=True, mask="added", key_heads=2, **options))
    assert_refuses(pass_, model, reason)


def test_probabilities_stay_when_they_are_an_output() -> None:
    output = ", float[N,4,S,S] weights"
    model = attention_model(Spelling(output=output))
    assert_rewrites(
        MULTI, model, expect=None, rewrites=1, rtol=1e-5, atol=1e-5, sizes=BATCHES, check=False
    )
    assert "Softmax" in [node.op_type for node in model.graph]


def test_new_cache_stays_a_concat_when_it_is_read_elsewhere() -> None:
    spelling = Spelling(
        past=True, mask="added", tail="more = Relu(pr_k)", output=", float[N,4,T,8] more"
    )
    model = attention_model(spelling)
    result = assert_rewrites(
        FuseAttention(), model, expect=None, rewrites=2, rtol=1e-5, atol=1e-5, sizes=BATCHES,
        check=False,
    )  # fmt: skip
    assert "read elsewhere" in result.refusals[0].reason


@pytest.mark.parametrize(
    ("spelling", "pass_"),
    [
        (Spelling(mask="added"), MULTI),
        (Spelling(mask="kept", guard="isnan", empty_rows=True), MULTI),
        (Spelling(past=True, mask="added", key_heads=2), GROUPED),
    ],
)
def test_subgraph_is_rewritten(spelling: Spelling, pass_: FuseAttention) -> None:
    model = in_branches(attention_model(spelling))
    rewrites = 6 if spelling.past else 2
    assert_rewrites(
        pass_, model, expect=["If"], rewrites=rewrites, rtol=1e-5, atol=1e-5,
        sizes=SIZES if spelling.past else BATCHES, check=False,
    )  # fmt: skip
    for branch in branches_of(model):
        assert "Softmax" not in [node.op_type for node in branch]


def test_unknown_operators_are_refused_by_name() -> None:
    with pytest.raises(InvalidInputError, match="'Attention' is none of GroupQueryAttention"):
        FuseAttention(operators=("Attention",))


@pytest.mark.parametrize(("opset", "fuses"), [(11, False), (13, True)])
def test_softmax_without_an_axis_is_over_keys_from_opset_13_on(opset: int, fuses: bool) -> None:
    text = """
    g (float[1,2,4,8] q, float[1,2,4,8] k, float[1,2,4,8] v) => (float[1,2,4,8] y) {
      t = Transpose<perm=[0,1,3,2]>(k) s = MatMul(q, t) p = Softmax(s) y = MatMul(p, v)
    }"""
    model = parse_model(text, opset=opset)
    infer_model(model)
    assert MULTI(model).modified == fuses
    assert ("Softmax" in op_types(model)) != fuses


@pytest.mark.parametrize("fill", [-1e4, -1e9, -3.4e38])
def test_row_masked_out_by_a_number_is_the_mean_of_all_values(fill: float) -> None:
    text = """
    g (float[1,2,4,8] q, float[1,2,4,8] k, float[1,2,4,8] v, bool[1,1,4,4] m, bool[1,1,4,4] n)
    => (float[1,2,4,8] y) {
      t = Transpose<perm=[0,1,3,2]>(k) s = MatMul(q, t) a = Where(m, s, low) b = Where(n, a, low)
      p = Softmax(b) y = MatMul(p, v)
    }"""
    model = parse_model(text, {"low": np.array(fill, np.float32)})
    infer_model(model)
    rng = np.random.default_rng(0)
    feeds = {name: rng.normal(size=(1, 2, 4, 8)).astype(np.float32) for name in "qkv"}
    kept = np.ones((1, 1, 4, 4), bool)
    kept[0, 0, 1], kept[0, 0, 2, 2:] = False, False
    assert_rewrites(
        MULTI, model, expect=None, rewrites=1, rtol=1e-5, atol=1e-5, check=False,
        feeds=feeds | {"m": kept, "n": kept},
    )  # fmt: skip
