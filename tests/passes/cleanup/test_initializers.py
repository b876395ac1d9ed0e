"""DeduplicateInitializers: equal bits only, in the same or an outer graph, few bytes read."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers.rewriting import assert_refuses, assert_rewrites, parse_model

from onnxopt.passes.cleanup import initializers
from onnxopt.passes.cleanup.initializers import DeduplicateInitializers

_TWO = "g (float[N,2] x) => (float[N,2] y) { m = Mul(x, w1) y = Add(m, w2) }"


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, np.int32, np.int64])
def test_one_is_left_when_two_are_equal(dtype: type) -> None:
    w = np.array([1, 2], dtype)
    name = ir.tensor(w).dtype.name.lower()
    text = _TWO.replace("float[", name.replace("float32", "float") + "[")
    model = parse_model(text, {"w1": w, "w2": w.copy()})
    assert_rewrites(
        DeduplicateInitializers(), model, expect=["Mul", "Add"], rewrites=1, rtol=0, atol=0
    )
    assert list(model.graph.initializers) == ["w1"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.array([0.0, 1.0], np.float32), np.array([-0.0, 1.0], np.float32)),
        (np.array([[1.0, 2.0]], np.float32), np.array([1.0, 2.0], np.float32)),
        (np.arange(9000, dtype=np.float32), np.append(np.arange(8999), 7).astype(np.float32)),
        (
            np.array([0x7FC00000, 0], np.uint32).view(np.float32),
            np.array([0x7FC00001, 0], np.uint32).view(np.float32),
        ),
    ],
    ids=["sign-of-zero", "shape", "last-element", "nan-payload"],
)
def test_both_stay_when_they_differ(one: np.ndarray, other: np.ndarray) -> None:
    model = parse_model(
        "g (float[1] x) => (float[?] y, float[?] z) { y = Mul(x, w1) z = Add(x, w2) }",
        {"w1": one, "w2": other},
    )
    assert not DeduplicateInitializers()(model).modified
    assert set(model.graph.initializers) == {"w1", "w2"}


def test_users_share_one_when_many_are_equal() -> None:
    w = np.ones(2, np.float32)
    model = parse_model(
        "g (float[N,2] x) => (float[N,2] y) { a = Mul(x, w1) b = Add(a, w2) y = Sub(b, w3) }",
        {"w1": w, "w2": w.copy(), "w3": w.copy()},
    )
    assert_rewrites(DeduplicateInitializers(), model, expect=None, rewrites=2, rtol=0, atol=0)


def test_overridable_default_is_refused_when_another_equals_it() -> None:
    model = parse_model(
        """g (float[2] x, float[2] w1) => (float[2] y)
        <float[2] w1 = {1, 2}, float[2] w2 = {1, 2}> { m = Mul(x, w1) y = Add(m, w2) }"""
    )
    assert_refuses(DeduplicateInitializers(), model, "graph input that the caller may replace")


def test_graph_output_is_refused_when_another_equals_it() -> None:
    model = parse_model(
        """g (float[2] x) => (float[2] y, float[2] w1)
        <float[2] w1 = {1, 2}, float[2] w2 = {1, 2}> { m = Mul(x, w1) y = Add(m, w2) }"""
    )
    assert_refuses(DeduplicateInitializers(), model, "is a graph output")


def _branches(then: str, other: str, weights: dict[str, np.ndarray]) -> ir.Model:
    text = f"""g (float[M,300] x, bool c) => (float[M,300] y) {{
        a = Identity(x)
        y = If (c) <
            then_branch = t () => (float[M,300] p) {{ p = {then} }},
            else_branch = e () => (float[M,300] q) {{ q = {other} }}
        >
    }}"""
    return parse_model(text, weights)


def _put(graph: ir.Graph, name: str, array: np.ndarray) -> None:
    """Moves the weight `name` from the main graph, where the parser put it, into a branch."""
    value = next(v for node in graph for v in node.inputs if v is not None and v.name == name)
    value.graph.initializers.pop(name)
    graph.initializers[name] = value


def test_branch_reads_the_outer_weight_when_both_are_equal_and_large() -> None:
    w = np.arange(300, dtype=np.float32)
    model = _branches("Add(a, w)", "Mul(a, u)", {"w": w, "u": w.copy()})
    _put(model.graph[1].attributes["else_branch"].as_graph(), "u", w)
    assert_rewrites(
        DeduplicateInitializers(), model, expect=None, rewrites=1, rtol=0, atol=0,
        sizes=({"M": 1}, {"M": 3}),
    )  # fmt: skip
    assert list(model.graph.initializers) == ["w"]


def test_weight_moves_outwards_when_both_branches_hold_it() -> None:
    w = np.arange(300, dtype=np.float32)
    model = _branches("Add(a, w)", "Mul(a, u)", {"w": w, "u": w.copy()})
    _put(model.graph[1].attributes["then_branch"].as_graph(), "w", w)
    _put(model.graph[1].attributes["else_branch"].as_graph(), "u", w)
    assert_rewrites(
        DeduplicateInitializers(), model, expect=None, rewrites=1, rtol=0, atol=0,
        sizes=({"M": 1}, {"M": 3}),
    )  # fmt: skip
    assert len(model.graph.initializers) == 1


def test_branch_keeps_its_own_when_the_weight_is_small() -> None:
    w = np.ones(1, np.float32)
    model = _branches("Add(a, w)", "Mul(a, u)", {"w": w, "u": w.copy()})
    _put(model.graph[1].attributes["else_branch"].as_graph(), "u", w)
    assert_rewrites(
        DeduplicateInitializers(), model, expect=None, rewrites=0, rtol=0, atol=0,
        sizes=({"M": 1},),
    )  # fmt: skip


def test_strings_are_compared_when_they_are_initializers() -> None:
    model = parse_model("g (float[1] x) => (float[1] y) { y = Relu(x) }")
    for name in ("a", "b", "c"):
        text = [b"one", b"other" if name == "c" else b"two"]
        tensor = ir.StringTensor(np.array(text, dtype=object), name=name)
        model.graph.register_initializer(ir.Value(name=name, const_value=tensor))
    assert DeduplicateInitializers()(model).rewrites["duplicate-initializer"] == 1
    assert set(model.graph.initializers) == {"a", "c"}


def test_only_the_start_is_read_when_weights_differ_there(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    weights = {f"w{i}": rng.standard_normal(100_000).astype(np.float32) for i in range(4)}
    model = parse_model(
        """g (float[1] x) => (float[100000] y)
        { a = Add(x, w0) b = Add(a, w1) d = Add(b, w2) y = Add(d, w3) }""",
        weights,
    )
    hashed: list[str] = []
    digest = initializers._digest
    monkeypatch.setattr(
        initializers, "_digest", lambda tensor: hashed.append(tensor.name) or digest(tensor)
    )
    assert not DeduplicateInitializers()(model).modified
    assert hashed == []
