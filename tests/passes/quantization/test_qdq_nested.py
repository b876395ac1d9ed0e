"""InsertQdq in subgraphs: what has a range is computed on integers there, too."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxopt.calibration.collecting import collect
from onnxopt.calibration.data import open_data
from onnxopt.core.walking import all_graphs
from onnxopt.graph.calibrated import Ranges
from onnxopt.graph.quantization import Encoding
from onnxopt.passes.quantization.qdq import InsertQdq
from onnxopt.quantizing.forms import observed_names
from onnxopt.runtime.session import open_session

BODIES = {
    "If": """m = ReduceMax<keepdims = 0>(x) o = Sub(m, m) c = Greater(s, o) h = Relu(x)
        y = If(c) <
            then_branch = t () => (float[N, 24] p) {
                a = MatMul(h, w) b = Relu(a) p = MatMul(b, v) },
            else_branch = e () => (float[N, 24] q) { d = MatMul(h, w) q = Sigmoid(d) }>""",
    "Loop": """y, k = Loop(n, , x) <body = b (int64 i, bool go, float[N, 24] a)
        => (bool more, float[N, 24] next, float[N, 24] z) {
            more = Identity(go) d = MatMul(a, w) next = Tanh(d) z = Identity(next) }>""",
}


def build(case: str) -> ir.Model:
    rng = np.random.default_rng(0)
    extra = "float s" if case == "If" else "int64 n"
    model = ir.from_onnx_text(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[N, 24] x, {extra},'
        f" float[24, 24] w, float[24, 24] v) => (float[N, 24] y) {{ {BODIES[case]} }}"
    )
    for value in list(model.graph.inputs[2:]):
        model.graph.inputs.remove(value)
        if value.uses():
            array = rng.standard_normal((24, 24)).astype(np.float32) / 4
            value.const_value = ir.Tensor(array, name=value.name)
            model.graph.register_initializer(value)
    for graph in all_graphs(model):
        for node in graph:
            node.name = f"{node.op_type}_{node.outputs[0].name}"
    return model


def samples(case: str) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    more = [np.array(n, np.float32 if case == "If" else np.int64) for n in (1, 1, -1, 3)]
    name = "s" if case == "If" else "n"
    return [{"x": rng.standard_normal((5, 24)).astype(np.float32), name: one} for one in more]


def quantized(case: str, sets: list[dict[str, np.ndarray]]) -> tuple[ir.Model, ir.Model, list[str]]:
    model = build(case)
    table = collect(model, observed_names(model), open_data(sets, model))
    result = model.clone()
    ranges = Ranges(table.ranges("min-max", Encoding()))
    found = InsertQdq(ranges=ranges, reduce_range=True)(result)
    return model, result, [refusal.reason for refusal in found.refusals]


@pytest.mark.parametrize("case", BODIES)
def test_products_in_bodies_are_quantized_and_close(case: str) -> None:
    model, result, refusals = quantized(case, samples(case))
    assert not refusals
    for graph in all_graphs(result):
        for node in graph:
            if node.op_type == "MatMul":
                producers = [v.producer() for v in node.inputs if v is not None]
                assert {p.op_type for p in producers if p is not None} == {"DequantizeLinear"}
    assert "w" not in result.graph.initializers  # the float original is gone
    stored = [n for graph in all_graphs(result) for n in graph.initializers if "w_quant" in n]
    assert stored == ["w_quantized"]  # once, for both branches
    before, after = open_session(model), open_session(result)
    for feeds in samples(case):
        expected = before.run(feeds)["y"]
        assert np.abs(after.run(feeds)["y"] - expected).max() < 0.05 * np.abs(expected).max()


def test_a_branch_that_no_sample_took_stays_in_float() -> None:
    _, result, refusals = quantized("If", samples("If")[:2])
    assert refusals == ["no range of 'd' is known"]
    branches = list(all_graphs(result))[1:]
    counts = [sum(n.op_type == "QuantizeLinear" for n in graph) for graph in branches]
    assert counts[0] > 0


def test_without_ranges_nothing_changes() -> None:
    model = build("If")
    before = [node.op_type for graph in all_graphs(model) for node in graph]
    assert not InsertQdq()(model).modified
    assert before == [node.op_type for graph in all_graphs(model) for node in graph]
