"""Values inside If, Loop and Scan: their extremes are seen, and nothing else changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from helpers.rewriting import parse_model

from onnxopt.calibration.collecting import collect
from onnxopt.calibration.data import open_data
from onnxopt.calibration.nested import NestedValues
from onnxopt.core.walking import Enclosing
from onnxopt.graph.inference import infer_model
from onnxopt.graph.quantization import Encoding
from onnxopt.runtime.session import open_session

BODIES = {
    "If": """c = Greater(s, zero)
        y = If(c) <then_branch = t () => (float[N, 3] p) { d = Add(x, one) p = Mul(d, two) },
                   else_branch = e () => (float[N, 3] q) { f = Sub(x, two) q = Neg(f) }>""",
    "If in If": """c = Greater(s, zero)
        y = If(c) <then_branch = t () => (float[N, 3] p) {
                p = If(c) <then_branch = u () => (float[N, 3] r) { d = Add(x, one)
                                                                  r = Mul(d, two) },
                           else_branch = v () => (float[N, 3] w) { f = Sub(x, two) w = Neg(f) }> },
                   else_branch = e () => (float[N, 3] q) { q = Identity(x) }>""",
    "Loop": """y, k = Loop(three, , x) <body = b (int64 i, bool go, float[N, 3] a)
        => (bool more, float[N, 3] next, float[N, 3] z) {
            more = Identity(go) d = Add(a, one) next = Identity(d) z = Identity(d) }>""",
    "If in Loop": """c = Greater(s, zero)
        y, k = Loop(three, , x) <body = b (int64 i, bool go, float[N, 3] a)
        => (bool more, float[N, 3] next, float[N, 3] z) {
            more = Identity(go) o = Equal(i, izero)
            next = If(o) <then_branch = t () => (float[N, 3] p) { d = Add(a, one)
                                                                  p = Identity(d) },
                          else_branch = e () => (float[N, 3] q) { q = Identity(a) }>
            z = Identity(next) }>""",
    "Scan": """l = ReduceSum<keepdims = 0>(x, izeros)
        y, k = Scan<num_scan_inputs = 1, scan_output_directions = [1], scan_output_axes = [1],
        body = b (float[3] h, float[3] a) => (float[3] next, float[3] z) {
            d = Add(a, one) g = Add(d, h) next = Identity(g) z = Identity(g) }>(l, x)""",
}
CONSTANTS: dict[str, np.ndarray] = {
    "zero": np.zeros((), np.float32),
    "one": np.ones((), np.float32),
    "two": np.full((), 2, np.float32),
    "three": np.array(3, np.int64),
    "izero": np.array(0, np.int64),
    "izeros": np.array([0], np.int64),
}


def build(case: str) -> ir.Model:
    lines = "".join(
        f"{name} = Constant<value = {{}}>() ".replace("{}", _text(array))
        for name, array in CONSTANTS.items()
        if name in BODIES[case].replace("(", " ").replace(",", " ").replace(")", " ").split()
    )
    model = ir.from_onnx_text(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 3] x, float s) => (float[K, 3] y)'
        f" {{ {lines} {BODIES[case]} }}"
    )
    model.graph.outputs[0].shape = None
    infer_model(model)
    return model


def _text(array: np.ndarray) -> str:
    kind = "float" if array.dtype == np.float32 else "int64"
    numbers = ", ".join(str(n) for n in array.reshape(-1))
    return f"{kind}{list(array.shape) if array.ndim else ''} {{{numbers}}}"


def samples(signs: list[float]) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [
        {"x": rng.standard_normal((2 + i, 3)).astype(np.float32), "s": np.array(sign, np.float32)}
        for i, sign in enumerate(signs)
    ]


@pytest.mark.parametrize("case", BODIES)
def test_extremes_of_values_in_bodies_are_seen(case: str) -> None:
    model = build(case)
    sets = samples([1.0, -1.0, 1.0])
    table = collect(model, ["d", "f"], open_data(sets, model))
    taken = [one["x"] for one in sets if one["s"] > 0 or "If" not in case or "Loop" in case]
    d = [x + 1 for x in taken]
    if case == "Loop":
        d += [x + 3 for x in taken]
    found = table.ranges("mse", Encoding())["d"]
    assert found == pytest.approx((min(0, min(a.min() for a in d)), max(a.max() for a in d)))
    if case == "If":
        f = [one["x"] - 2 for one in sets if one["s"] < 0]
        assert table.statistics["f"].low == pytest.approx(min(a.min() for a in f))


def test_a_branch_that_is_never_taken_stays_unknown() -> None:
    model = build("If")
    table = collect(model, ["d", "f"], open_data(samples([1.0, 1.0]), model))
    assert "d" in table.statistics
    assert "f" not in table.statistics


def test_values_that_are_not_finite_have_no_range() -> None:
    model = build("If")
    sets = samples([1.0])
    sets[0]["x"] = np.full((2, 3), 3e38, np.float32)  # twice as much is infinite
    table = collect(model, ["p"], open_data(sets, model))
    assert table.statistics["p"].infinite
    assert "p" not in table.ranges("min-max", Encoding())


@pytest.mark.parametrize("case", BODIES)
def test_the_outputs_are_as_before(case: str) -> None:
    model = build(case)
    nested = NestedValues(model, ["d", "f", "p", "g"])
    assert nested.shown
    for feeds in samples([1.0, -1.0]):
        before, after = (open_session(one).run(feeds)["y"] for one in (model, nested.model))
        np.testing.assert_array_equal(before, after)


def test_a_model_without_subgraphs_shows_nothing() -> None:
    model = ir.from_onnx_text(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) { y = Neg(x) }'
    )
    assert not NestedValues(model, ["y"]).shown


_BESIDE = {
    "SequenceMap": """q = SplitToSequence<axis = 0>(x, ione)
        r = SequenceMap<body = b (float[1, 3] i) => (float[1, 3] o) { d2 = Mul(i, i) o = Relu(d2) }>
            (q)
        z = ConcatFromSequence<axis = 0>(r)""",
    "Scan": """z = Scan<num_scan_inputs = 1, body = b (float[3] i) => (float[3] o) {
            d2 = Mul(i, i) o = Relu(d2) }>(x)""",
}


def beside(other: str) -> ir.Model:
    """An If, and another node with a body."""
    model = parse_model(
        f"""g (float[N, 3] x, bool c) => (float[N, 3] y, float[N, 3] z) {{
            y = If(c) <then_branch = t () => (float[N, 3] p) {{ d = Neg(x) p = Relu(d) }},
                       else_branch = e () => (float[N, 3] q) {{ q = Identity(x) }}>
            {_BESIDE[other]} }}""",
        {"ione": np.array(1, np.int64)} if other == "SequenceMap" else {},
    )
    infer_model(model)
    return model


def test_values_beside_a_sequence_map_are_seen() -> None:
    model = beside("SequenceMap")
    sets = [{"x": one["x"], "c": np.array(True)} for one in samples([1.0, 1.0])]
    table = collect(model, ["d", "p", "d2", "o"], open_data(sets, model))
    assert sorted(table.statistics) == ["d", "p"]
    assert table.notes == ["values inside a SequenceMap have no ranges: d2, o"]


def test_a_node_that_cannot_be_observed_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    outwards = NestedValues._outwards

    def unstackable(
        self: NestedValues, graph: ir.Graph, ends: ir.Value, around: Enclosing
    ) -> ir.Value:
        if around.node.op_type == "Scan":  # a Scan of too many outputs does not run
            graph.outputs.append(ends)
        return outwards(self, graph, ends, around)

    monkeypatch.setattr(NestedValues, "_outwards", unstackable)
    model = beside("Scan")
    sets = [{"x": one["x"], "c": np.array(True)} for one in samples([1.0, 1.0])]
    table = collect(model, ["d", "p", "d2"], open_data(sets, model))
    assert sorted(table.statistics) == ["d", "p"]
    (note,) = table.notes
    assert "values inside 'Scan' have no ranges" in note


def test_only_nodes_that_are_asked_for_are_entered() -> None:
    model = beside("Scan")
    assert set(NestedValues(model, ["d", "d2"], [0]).shown.values()) == {"d"}
    assert set(NestedValues(model, ["d", "d2"], [1]).shown.values()) == {"d2"}
