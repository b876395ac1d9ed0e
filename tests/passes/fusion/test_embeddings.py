"""FuseEmbeddings: two and three lookups, constant rows, index types, and sums that stay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from helpers.rewriting import assert_refuses, assert_rewrites, parse_model
from numpy.typing import NDArray

from onnxopt.graph.inference import infer_model
from onnxopt.passes.fusion.embeddings import FuseEmbeddings

RNG = np.random.default_rng(0)
WEIGHTS = {
    "w": RNG.standard_normal((9, 8)), "p": RNG.standard_normal((6, 8)),
    "t": RNG.standard_normal((4, 8)), "g": RNG.standard_normal(8), "b": RNG.standard_normal(8),
    "row": RNG.standard_normal(8), "matrix": RNG.standard_normal((4, 8)),
}  # fmt: skip
WORDS, TYPES = "e = Gather(w, ids)", "k = Gather(t, types)"
PLACES = "n = Shape<start=1, end=2>(ids) l = Slice(all, zero, n, one) o = Gather(p, l)"
NORM = "y = LayerNormalization<epsilon=1e-12>(s, g, b)"
SIZES = ({"B": 1, "S": 1}, {"B": 3, "S": 5})


def model_of(
    body: str,
    output: str = "",
    dtype: str = "int64",
    extra: str = "",
    more: Mapping[str, NDArray[Any]] | None = None,
) -> ir.Model:
    words = set(body.replace("(", " ").replace(")", " ").replace(",", " ").split())
    used = {key: array.astype(np.float32) for key, array in WEIGHTS.items() if key in words}
    if "all" in words:
        used |= {"all": np.arange(6)[None], "zero": np.array([0]), "one": np.array([1])}
    used |= {name: array for name, array in (more or {}).items() if name in words}
    text = (
        f"g ({dtype}[B,S] ids, {dtype}[B,S] types{extra}) => (float[B,S,8] y{output}) {{ {body} }}"
    )
    model = parse_model(text, used)
    infer_model(model)
    return model


@pytest.mark.parametrize("dtype", ["int64", "int32"])
@pytest.mark.parametrize(
    "body",
    [
        f"{WORDS} {TYPES} {PLACES} a = Add(e, k) s = Add(a, o) {NORM}",
        f"{WORDS} {TYPES} {PLACES} a = Add(o, e) s = Add(k, a) {NORM}",
        f"{WORDS} {TYPES} {PLACES} s = Sum(o, e, k) {NORM}",
        f"{WORDS} {PLACES} s = Add(e, o) {NORM}",
        f"{WORDS} {TYPES} s = Add(e, k) {NORM}",
        f"{WORDS} {PLACES} a = Add(e, row) s = Add(a, o) {NORM}",
    ],
)
def test_embeddings_are_one_node_however_they_are_added(body: str, dtype: str) -> None:
    model = model_of(body, dtype=dtype)
    assert_rewrites(
        FuseEmbeddings(), model, expect=None, rewrites=1, rtol=1e-4, atol=1e-5, sizes=SIZES
    )
    operators = {node.op_type for node in model.graph}
    assert not operators & {"Gather", "Add", "Sum", "LayerNormalization"}


def test_middle_stays_when_the_sum_is_an_output() -> None:
    model = model_of(f"{WORDS} {TYPES} s = Add(e, k) {NORM}", ", float[B,S,8] s")
    assert_refuses(FuseEmbeddings(), model, "other users")


def test_computed_scale_is_refused() -> None:
    model = model_of(f"{WORDS} {TYPES} s = Add(e, k) {NORM}", extra=", float[8] h")
    norm = model.graph[-1]
    norm.replace_input_with(1, model.graph.inputs[-1])
    assert_refuses(FuseEmbeddings(), model, "no constant scale")


@pytest.mark.parametrize(
    "body",
    [
        f"{WORDS} s = Relu(e) {NORM}",
        f"{WORDS} {TYPES} r = Relu(k) s = Add(e, r) {NORM}",
        f"{WORDS} s = Add(e, row) {NORM}",
        f"{WORDS} {TYPES} a = Add(e, row) d = Add(a, row) s = Add(d, k) {NORM}",
    ],
)
def test_nothing_changes_when_the_sum_is_another(body: str) -> None:
    result = FuseEmbeddings()(model_of(body))
    assert not result.modified
    assert not result.refusals


def test_lookup_of_a_whole_table_stays() -> None:
    body = f"{WORDS} i = Shape<start=0, end=2>(ids) o = Gather(matrix, i) s = Add(e, o) {NORM}"
    model = parse_model(
        f"g (int64[B,2] ids) => (float[B,2,8] y) {{ {body} }}",
        {key: WEIGHTS[key].astype(np.float32) for key in ("w", "matrix", "g", "b")},
    )
    infer_model(model)
    assert not FuseEmbeddings()(model).modified


def test_subgraph_is_rewritten_and_the_table_may_be_shared() -> None:
    model = parse_model(
        """g (int64[B,S] ids, bool k) => (float[B,S,8] y) {
            e = Gather(w, ids)
            y = If (k) <
                then_branch = t () => (float[B,S,8] q) {
                    a = Gather(w, ids) o = Gather(p, ids) s = Add(a, o)
                    q = LayerNormalization(s, g, b)
                },
                else_branch = f () => (float[B,S,8] r) { r = Relu(e) }
            >
        }"""
    )
    branch = model.graph[-1].attributes["then_branch"].as_graph()
    for name in ("w", "p", "g", "b"):
        array = WEIGHTS[name].astype(np.float32)
        value = ir.Value(
            name=name, shape=ir.Shape(array.shape), type=ir.TensorType(ir.DataType.FLOAT),
            const_value=ir.tensor(array, name=name),
        )  # fmt: skip
        for node in (*model.graph, *branch):
            for index, operand in enumerate(node.inputs):
                if operand is not None and operand.name == name:
                    node.replace_input_with(index, value)
        model.graph.register_initializer(value)
    infer_model(model)
    assert_rewrites(
        FuseEmbeddings(), model, expect=["Gather", "If"], rewrites=1, rtol=1e-4, atol=1e-5,
        sizes=SIZES,
    )  # fmt: skip
    assert "EmbedLayerNormalization" in [node.op_type for node in branch]


@pytest.mark.parametrize(
    "lookup",
    [
        "o = Gather(p, single)",  # one place for all words
        "o = Gather(narrow, types)",  # rows of one number
    ],
)
def test_lookup_that_is_broadcast_stays(lookup: str) -> None:
    body = f"{WORDS} {lookup} s = Add(e, o) {NORM}"
    model = model_of(body, more={"single": np.array([[2]]), "narrow": np.ones((4, 1), np.float32)})
    assert not FuseEmbeddings()(model).modified
