"""Attention in the windows of images, as Swin has it: a bias by head and a mask by window."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers.attention import HEADS, SIZE
from helpers.rewriting import Array, assert_refuses, assert_rewrites, parse_model

from onnxopt.passes.cleanup.constants import FoldConstants
from onnxopt.passes.fusion.attention.fuse import FuseAttention

PASS = FuseAttention(operators=("MultiHeadAttention",))
WIDTH, PLACES, WINDOWS = HEADS * SIZE, 9, 4
APART, TOGETHER = [-1, WINDOWS, HEADS, PLACES, PLACES], [-1, HEADS, PLACES, PLACES]
SCORES = "x = Reshape(b, apart) m = Add(x, mask) t = Reshape(m, together)"


def windows(scores: str = SCORES, *, given: str = "", **constants: Array) -> ir.Model:
    """A model over `[images * windows, places, width]`.

    Args:
        scores: Nodes that lead from b, the biased scores, to t.
        given: The mask as a graph input, as text; else it is a constant.
        constants: Constants that the nodes read.
    """
    text = (
        "qs = Reshape(q, split) qh = Transpose<perm = [0, 2, 1, 3]>(qs) "
        "ks = Reshape(k, split) kt = Transpose<perm = [0, 2, 3, 1]>(ks) "
        "vs = Reshape(v, split) vh = Transpose<perm = [0, 2, 1, 3]>(vs) "
        f"p = MatMul(qh, kt) s = Mul(p, factor) b = Add(s, bias) {scores} "
        "w = Softmax<axis = -1>(t) o = MatMul(w, vh) z = Transpose<perm = [0, 2, 1, 3]>(o) "
        "y = Reshape(z, merge)"
    )
    rng = np.random.default_rng(1)
    hidden = rng.random((1, WINDOWS, 1, PLACES, PLACES)) < 0.3
    weights: dict[str, Array] = {
        "split": np.array([0, 0, HEADS, SIZE]), "merge": np.array([0, 0, WIDTH]),
        "factor": np.float32(SIZE**-0.5) * np.ones((), np.float32),
        "bias": rng.standard_normal((1, HEADS, PLACES, PLACES)).astype(np.float32),
        "apart": np.array(APART), "together": np.array(TOGETHER),
        "mask": np.where(hidden, np.float32(-100), np.float32(0)),
    } | constants  # fmt: skip
    words = set(text.replace("(", " ").replace(")", " ").replace(",", " ").split())
    if given:
        del weights["mask"]
    inputs = ", ".join(f"float[N,{PLACES},{WIDTH}] {name}" for name in "qkv") + given
    model = parse_model(
        f"g ({inputs}) => (float[N,{PLACES},{WIDTH}] y) {{ {text} }}",
        {name: array for name, array in weights.items() if name in words},
    )
    FoldConstants()(model)
    return model


def fused(model: ir.Model, **sizes: int) -> None:
    counts = [{"N": WINDOWS * images} | sizes for images in (1, 3)]
    assert_rewrites(
        PASS, model, expect=None, rewrites=1, rtol=1e-5, atol=1e-5, sizes=counts, check=False
    )  # fmt: skip
    operators = [node.op_type for node in model.graph]
    assert operators.count("MultiHeadAttention") == 1
    assert "Softmax" not in operators


@pytest.mark.parametrize("shape", [(1, WINDOWS, 1), (1, WINDOWS, HEADS), (WINDOWS, 1)])
def test_windows_are_fused_when_the_mask_is_constant(shape: tuple[int, ...]) -> None:
    drawn = np.random.default_rng(2).standard_normal((*shape, PLACES, PLACES))
    fused(windows(mask=drawn.astype(np.float32)))


def test_windows_are_fused_when_their_number_is_not_known() -> None:
    """As in exports for images of any size: the mask is computed, here it is an input."""
    computed = (
        "shape = Shape<start = 1, end = 2>(mask) "
        "target = Concat<axis = 0>(minus, shape, rest) x = Reshape(b, target) m = Add(x, mask) "
        "t = Reshape(m, together)"
    )
    rest: dict[str, Array] = {"minus": np.array([-1]), "rest": np.array(APART[2:])}
    given = f", float[1,W,1,{PLACES},{PLACES}] mask"
    fused(windows(computed, given=given, **rest), W=WINDOWS)


def test_boolean_masks_of_windows_are_fused() -> None:
    keep = np.random.default_rng(3).random((1, WINDOWS, 1, PLACES, PLACES)) < 0.7
    scores = SCORES.replace("Add(x, mask)", "Where(keep, x, low)")
    low = np.float32(-1e9) * np.ones((), np.float32)
    fused(windows(scores, keep=keep, low=low))


def test_mask_without_windows_is_added_to_all_of_them() -> None:
    drawn = np.random.default_rng(4).standard_normal((HEADS, PLACES, PLACES))
    fused(windows(mask=drawn.astype(np.float32)))


@pytest.mark.parametrize(
    ("scores", "mask"),
    [
        # Apart, but with places before heads.
        (
            "x = Reshape(b, other) m = Add(x, mask) t = Reshape(m, together)",
            (1, 1, PLACES, HEADS, PLACES),
        ),
        # Never together again, or otherwise.
        ("t = Reshape(b, apart)", ()),
        ("x = Reshape(b, apart) m = Add(x, mask) t = Reshape(m, mixed)", (1, 1, 1, PLACES, PLACES)),
    ],
)
def test_scores_are_refused_when_they_are_regrouped_otherwise(
    scores: str, mask: tuple[int, ...]
) -> None:
    model = windows(
        scores,
        mask=np.zeros(mask, np.float32),
        other=np.array([-1, WINDOWS, PLACES, HEADS, PLACES]),
        mixed=np.array([-1, PLACES, HEADS, PLACES]),
    )
    assert_refuses(PASS, model, "none of windows")
