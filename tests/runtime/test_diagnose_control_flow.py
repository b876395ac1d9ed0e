"""Diagnosis inside of If, Loop and Scan: the node in the body, not the one around it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from onnxopt.core.walking import all_graphs
from onnxopt.runtime.diagnosis.search import diagnose

HEADER = '<ir_version: 10, opset_import: ["" : 18]>'
IF = """g (float[N, 8] x) => (float[N, 8] y) {
    big = ReduceMax <keepdims = 0> (x)
    low = Constant <value = float {-1000000.0}> ()
    pick = Greater(big, low)
    scaled = Mul(x, w)
    y = If (pick) <
        then_branch = t () => (float[N, 8] t2) { t0 = MatMul(scaled, m) t1 = Tanh(t0)
            t2 = Add(t1, b) },
        else_branch = e () => (float[N, 8] e0) { e0 = Identity(scaled) }
    >
}"""
NESTED = """g (float[N, 8] x, bool pick) => (float[N, 8] y) {
    y = If (pick) <
        then_branch = t () => (float[N, 8] t1) { t0 = Mul(x, w) t1 = If (pick) <
            then_branch = u () => (float[N, 8] u1) { u0 = MatMul(t0, m) u1 = Add(u0, b) },
            else_branch = v () => (float[N, 8] v0) { v0 = Identity(t0) } > },
        else_branch = e () => (float[N, 8] e0) { e0 = Identity(x) }
    >
}"""
LOOP = """g (float[N, 8] x) => (float[N, 8] y) {
    times = Constant <value = int64 {3}> ()
    yes = Constant <value = bool {1}> ()
    start = Mul(x, w)
    y = Loop (times, yes, start) <
        body = l (int64 i, bool c, float[N, 8] s) => (bool d, float[N, 8] n) {
            d = Identity(c) a = MatMul(s, m) r = Tanh(a) n = Add(r, b) }
    >
}"""
SCAN = """g (float[T, 8] x) => (float[8] last, float[T, 8] y) {
    zero = Constant <value = float[8] {0, 0, 0, 0, 0, 0, 0, 0}> ()
    last, y = Scan (zero, x) <num_scan_inputs = 1,
        body = l (float[8] s, float[8] z) => (float[8] n, float[8] o) {
            p = Mul(z, w) q = Add(s, p) a = MatMul(q, m) n = Tanh(a) o = Add(n, b) }
    >
}"""


def _model(text: str) -> ir.Model:
    proto = onnx.parser.parse_model(HEADER + text)
    rng = np.random.default_rng(0)
    for name, shape in (("w", (8,)), ("m", (8, 8)), ("b", (8,))):
        array = rng.standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    model = ir.from_proto(proto)
    for node in _nodes(model):
        node.name = f"node_{node.outputs[0].name}"
    return model


def _nodes(model: ir.Model) -> Iterator[ir.Node]:
    for graph in all_graphs(model):
        yield from graph


def _node(model: ir.Model, name: str) -> ir.Node:
    return next(node for node in _nodes(model) if node.name == name)


@pytest.mark.parametrize(
    ("text", "fault", "inside"),
    [
        (IF, "node_t1", ["If 'node_y', then_branch"]),
        (NESTED, "node_u1", ["If 'node_y', then_branch", "If 'node_t1', then_branch"]),
        (LOOP, "node_r", ["Loop 'node_y', body"]),
        (SCAN, "node_n", ["Scan 'node_last', body"]),
    ],
    ids=["if", "nested", "loop", "scan"],
)
def test_node_inside_of_a_body_is_found(text: str, fault: str, inside: list[str]) -> None:
    original = _model(text)
    faulty = original.clone()
    node = _node(faulty, fault)
    node.op_type = "Sub" if node.op_type == "Add" else "Sigmoid"
    data = {"x": np.random.default_rng(1).standard_normal((4, 8)).astype(np.float32)}
    if text is NESTED:
        data["pick"] = np.array(True)
    found = diagnose(original, faulty, inputs=data)
    worst = found.findings[0]
    assert (worst.nodes[0], list(worst.inside)) == (fault, inside), found.to_text()
    assert f"is {node.op_type}, not" in worst.causes[0]
    assert f"inside {inside[0]}" in found.to_text()


def test_weight_that_a_body_reads_from_outside_is_found() -> None:
    original = _model(IF)
    faulty = original.clone()
    weight = faulty.graph.initializers["b"]
    assert weight.const_value is not None
    weight.const_value = ir.tensor(weight.const_value.numpy() * np.float32(1.1), name="b")
    worst = diagnose(original, faulty).findings[0]
    assert worst.nodes[0] == "node_t2"
    assert "'b' is scaled by 1.1" in worst.causes


def test_control_flow_is_named_when_the_fault_is_not_in_the_first_run_of_its_body() -> None:
    original = _model(LOOP)
    faulty = original.clone()
    times = _node(faulty, "node_times")
    times.attributes["value"] = ir.AttrTensor("value", ir.tensor(np.int64(2)))
    worst = diagnose(original, faulty).findings[0]
    assert worst.nodes[0] == "node_y"
    assert worst.inside == ()
