"""Attention over batch and heads as one axis: older transformers, and einsum of tf2onnx."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers.attention import BATCHES, HEADS, SIZE
from helpers.rewriting import Array, assert_refuses, assert_rewrites, parse_model

from onnxopt.passes.cleanup.constants import FoldConstants
from onnxopt.passes.fusion.attention.fuse import FuseAttention

PASS = FuseAttention(operators=("MultiHeadAttention",))
WIDTH = HEADS * SIZE
PRODUCTS = {
    "straight": "kt = Transpose<perm = [0, 2, 1]>(kj) s = MatMul(qj, kt)",
    "key transposed first": "kx = Transpose<perm = [0, 1, 3, 2]>(kh) kt = Reshape(kx, join_t) "
    "s = MatMul(qj, kt)",
    "scaled": "c = Mul(qj, factor) kt = Transpose<perm = [0, 2, 1]>(kj) s = MatMul(c, kt)",
}
SCORES = {
    "plain": "w = Softmax<axis = -1>(s)",
    "masked": "a = Reshape(s, apart) m = Add(a, mask) t = Reshape(m, join_s) "
    "w = Softmax<axis = -1>(t)",
    "softmax apart": "a = Reshape(s, apart) m = Add(a, mask) t = Softmax<axis = -1>(m) "
    "w = Reshape(t, join_s)",
    "same mask for all": "t = Add(s, flat) w = Softmax<axis = -1>(t)",
}
# softmax((k q^T)^T), which is what an einsum with that order of operands becomes.
TURNED = {
    "joined": "qt = Transpose<perm = [0, 2, 1]>(qj) p = MatMul(kj, qt) "
    "t = Transpose<perm = [0, 2, 1]>(p) w = Softmax<axis = -1>(t)",
    "apart": "qt = Transpose<perm = [0, 2, 1]>(qj) p = MatMul(kj, qt) a = Reshape(p, apart) "
    "t = Transpose<perm = [0, 1, 3, 2]>(a) m = Add(t, mask) x = Softmax<axis = -1>(m) "
    "w = Reshape(x, join_s)",
}


def joined(product: str, scores: str, value: str = "") -> ir.Model:
    """Inputs q, k, v `[N, S, 32]` and masks; output y as q."""
    heads = " ".join(
        f"{n}s = Reshape({n}, split) {n}h = Transpose<perm = [0, 2, 1, 3]>({n}s) "
        f"{n}j = Reshape({n}h, join)"
        for n in "qkv"
    )
    text = (
        f"length = Shape<start = 1, end = 2>(q) join = Concat<axis = 0>(minus, length, size) "
        "join_t = Concat<axis = 0>(minus, size, length) "
        "join_s = Concat<axis = 0>(minus, length, length) "
        f"apart = Concat<axis = 0>(minus, heads, length, length) {heads} {product} {scores} "
        f"{value} o = MatMul(w, {'vv' if value else 'vj'}) "
        "join_o = Concat<axis = 0>(minus, heads, length, size) "
        "b = Reshape(o, join_o) z = Transpose<perm = [0, 2, 1, 3]>(b) y = Reshape(z, merge)"
    )
    inputs = [f"float[N,S,{WIDTH}] {name}" for name in "qkv"]
    given = {"mask": "float[N,1,S,S] mask", "flat": "float[S,S] flat", "by": "float[B,S,S] by"}
    words = set(text.replace("(", " ").replace(")", " ").replace(",", " ").split())
    inputs += [declared for name, declared in given.items() if name in words]
    weights: dict[str, Array] = {
        "minus": np.array([-1]), "size": np.array([SIZE]), "heads": np.array([HEADS]),
        "split": np.array([0, 0, HEADS, SIZE]), "merge": np.array([0, 0, WIDTH]),
        "factor": np.full((), SIZE**-0.5, np.float32),
    }  # fmt: skip
    model = parse_model(
        f"g ({', '.join(inputs)}) => (float[N,S,{WIDTH}] y) {{ {text} }}",
        {name: array for name, array in weights.items() if name in words},
    )
    FoldConstants()(model)
    return model


def fused(model: ir.Model) -> None:
    assert_rewrites(
        PASS, model, expect=None, rewrites=1, rtol=1e-5, atol=1e-5, sizes=BATCHES, check=False
    )
    assert [node.op_type for node in model.graph].count("MultiHeadAttention") == 1


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("scores", SCORES)
def test_joined_heads_are_fused(product: str, scores: str) -> None:
    fused(joined(PRODUCTS[product], SCORES[scores]))


@pytest.mark.parametrize("scores", TURNED)
def test_transposed_product_is_fused(scores: str) -> None:
    fused(joined("", TURNED[scores]))


def test_value_is_fused_when_it_is_transposed_there_and_back() -> None:
    value = (
        "vt = Transpose<perm = [0, 2, 3, 1]>(vs) vx = Reshape(vt, join_t) "
        "vv = Transpose<perm = [0, 2, 1]>(vx)"
    )
    fused(joined(PRODUCTS["straight"], SCORES["masked"], value))


@pytest.mark.parametrize(
    ("product", "scores", "reason"),
    [
        (PRODUCTS["straight"], "t = Add(s, by) w = Softmax<axis = -1>(t)", "heads are joined"),
        (
            "qt = Transpose<perm = [0, 2, 1]>(qj) p = MatMul(kj, qt) m = Add(p, flat)",
            "t = Transpose<perm = [0, 2, 1]>(m) w = Softmax<axis = -1>(t)",
            "before the scores are transposed",
        ),
        (
            PRODUCTS["straight"],
            "a = Reshape(s, apart) x = Transpose<perm = [1, 0, 2, 3]>(a) t = Softmax<axis = -1>(x) "
            "w = Reshape(t, join_s)",
            "other axes than the last two",
        ),
    ],
)
def test_scores_are_refused_when(product: str, scores: str, reason: str) -> None:
    assert_refuses(PASS, joined(product, scores), reason)
