"""Causal masks cut out of a constant triangle: which cuts are, and what becomes of them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers.attention import BATCHES, HEADS, SIZE
from helpers.rewriting import Array, assert_rewrites, parse_model

from onnxopt.passes.cleanup.constants import FoldConstants
from onnxopt.passes.cleanup.unused import RemoveUnused
from onnxopt.passes.fusion.attention.fuse import FuseAttention
from onnxopt.passes.fusion.attention.triangles import is_triangle

LOWER = np.tri(16, dtype=bool)
# With P tokens in the cache and S new ones.
SIZES = (
    "past = Shape<start = 1, end = 2>(p) new = Shape<start = 1, end = 2>(s) all = Add(past, new)"
)
CUT = "rows = Slice(triangle, past, all, a2) y = Slice(rows, zero, all, a3)"


def cut(text: str, triangle: Array) -> ir.Value:
    """The value `y` of a graph that cuts something out of a constant."""
    model = parse_model(
        f"g (float[1,P] p, float[1,S] s) => (bool[1,1,A,B] y) {{ {SIZES} {text} }}",
        {"triangle": triangle} | _integers(f"{SIZES} {text}"),
    )
    FoldConstants()(model)
    return model.graph.outputs[0]


def _integers(text: str) -> dict[str, Array]:
    words = set(text.replace("(", " ").replace(")", " ").replace(",", " ").split())
    known = {"zero": [0], "one": [1], "two": [2], "a2": [2], "a3": [3]}
    return {name: np.array(item, np.int64) for name, item in known.items() if name in words}


def test_cut_is_a_triangle_when_it_starts_behind_the_cache() -> None:
    assert is_triangle(cut(CUT, LOWER[None, None]), "P", "S")


@pytest.mark.parametrize(
    ("text", "dtype"),
    [
        ("cols = Slice(triangle, zero, all, a3) y = Slice(cols, past, all, a2)", np.bool_),
        (
            "rows = Slice(triangle, past, all, a2, one) cols = Slice(rows, zero, all, a3) "
            "same = Identity(cols) y = Cast<to = 9>(same)",
            np.uint8,
        ),
    ],
)
def test_cut_is_a_triangle_when_it_is_spelled_otherwise(text: str, dtype: type) -> None:
    assert is_triangle(cut(text, LOWER[None, None].astype(dtype)), "P", "S")


@pytest.mark.parametrize(
    "text",
    [
        "rows = Slice(triangle, zero, new, a2) y = Slice(rows, zero, all, a3)",
        "rows = Slice(triangle, past, all, a2) y = Slice(rows, one, all, a3)",
        "rows = Slice(triangle, past, all, a2, two) y = Slice(rows, zero, all, a3)",
        "rows = Slice(triangle, past, all, a2) y = Slice(rows, past, all, a2)",
        "y = Slice(triangle, past, all, a2)",
        "rows = Slice(triangle, past, all, a2) cols = Slice(rows, zero, all, a3) y = Not(cols)",
    ],
)
def test_cut_is_no_triangle_when_it_is_elsewhere(text: str) -> None:
    assert not is_triangle(cut(text, LOWER[None, None]), "P", "S")


@pytest.mark.parametrize("triangle", [LOWER.T, LOWER[:, :8], np.tri(16, k=1, dtype=bool)])
def test_cut_is_no_triangle_when_the_constant_is_none(triangle: Array) -> None:
    assert not is_triangle(cut(CUT, np.ascontiguousarray(triangle[None, None])), "P", "S")


def test_cut_is_no_triangle_when_the_sizes_are_others() -> None:
    value = cut(CUT, LOWER[None, None])
    assert not is_triangle(value, 0, "S")
    assert not is_triangle(value, "P", "N")


@pytest.mark.parametrize("beside", ["causal", "padding"])
def test_triangle_is_left_out_only_when_another_mask_is_causal(beside: str) -> None:
    """As GPT-2 has it: a buffer of ones below the diagonal, and what the user gives."""
    places = (
        "start = Squeeze(past) end = Squeeze(all) queries = Range(start, end, unit) "
        "keys = Range(none, end, unit) column = Unsqueeze(queries, one) "
        "keep = LessOrEqual(keys, column) other = Where(keep, nought, low) "
    )
    given, second = ("", "other") if beside == "causal" else (", float[N,1,1,T] given", "given")
    text = (
        f"past = Shape<start = 2, end = 3>(pk) new = Shape<start = 1, end = 2>(q) "
        f"all = Add(past, new) {places if beside == 'causal' else ''}{CUT.replace('y =', 'cut =')} "
        "qs = Reshape(q, split) qh = Transpose<perm = [0, 2, 1, 3]>(qs) "
        "ks = Reshape(k, split) kh = Transpose<perm = [0, 2, 1, 3]>(ks) "
        "vs = Reshape(v, split) vh = Transpose<perm = [0, 2, 1, 3]>(vs) "
        "nk = Concat<axis = 2>(pk, kh) nv = Concat<axis = 2>(pv, vh) "
        "kt = Transpose<perm = [0, 1, 3, 2]>(nk) s = MatMul(qh, kt) "
        f"c = Where(cut, s, low) m = Add(c, {second}) w = Softmax<axis = -1>(m) "
        "o = MatMul(w, nv) b = Transpose<perm = [0, 2, 1, 3]>(o) y = Reshape(b, merge)"
    )
    width = HEADS * SIZE
    inputs = ", ".join(f"float[N,S,{width}] {name}" for name in "qkv")
    cache = ", ".join(f"float[N,{HEADS},P,{SIZE}] {name}" for name in ("pk", "pv"))
    weights: dict[str, Array] = {
        "triangle": LOWER[None, None], "split": np.array([0, 0, HEADS, SIZE]),
        "merge": np.array([0, 0, width]), "low": np.float32(-1e9) * np.ones((), np.float32),
    } | _integers(text)  # fmt: skip
    if beside == "causal":
        weights |= {"unit": np.array(1), "none": np.array(0), "nought": np.zeros((), np.float32)}
    model = parse_model(
        f"g ({inputs}, {cache}{given}) => (float[N,S,{width}] y, "
        f"float[N,{HEADS},T,{SIZE}] nk, float[N,{HEADS},T,{SIZE}] nv) {{ {text} }}",
        weights,
    )
    FoldConstants()(model)
    sizes = [size | {"T": size["S"] + size["P"]} for size in BATCHES]
    assert_rewrites(
        FuseAttention(operators=("MultiHeadAttention",)), model, expect=None, rewrites=3,
        rtol=1e-5, atol=1e-5, sizes=sizes, check=False,
    )  # fmt: skip
    RemoveUnused()(model)
    assert ("Slice" in {node.op_type for node in model.graph}) == (beside == "padding")
