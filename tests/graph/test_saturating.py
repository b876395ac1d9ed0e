"""The part of a range that the readers of a value can tell apart."""

from __future__ import annotations

import math

import onnx_ir as ir
import pytest

from onnxopt.graph.saturating import useful_range


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("a = Relu(x) s = Sigmoid(a) y = Mul(a, s)", (-8, 100)),
        ("a = Relu(x) y = Sigmoid(a)", (-8, 8)),
        ("a = Relu(x) y = HardSwish(a)", (-3, 100)),
        ("a = Relu(x) y = HardSigmoid<alpha = 0.25, beta = 0.25>(a)", (-1, 3)),
        ("a = Relu(x) s = HardSigmoid<alpha = 0.25>(a) y = Mul(a, s)", (-2, 100)),
        ("a = Relu(x) s = Sigmoid(a) y = Add(a, s)", (-90, 100)),
        ("a = Relu(x) s = Sigmoid(x) y = Mul(a, s)", (-90, 100)),
        ("a = Relu(x) y = Tanh(a)", (-90, 100)),
        ("a = Relu(x) c = Constant<value = float {2.0}>() y = Mul(a, c)", (-90, 100)),
    ],
)
def test_what_readers_do_not_tell_apart_is_cut_off(
    body: str, expected: tuple[float, float]
) -> None:
    model = ir.from_onnx_text(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[N] x) => (float[N] y) {{ {body} }}'
    )
    assert useful_range(model.graph[0].outputs[0], (-90.0, 100.0)) == expected


def test_outputs_keep_their_range_and_what_is_flat_everywhere_too() -> None:
    model = ir.from_onnx_text(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N] x) => (float[N] a, float[N] y)'
        " { a = Relu(x) y = Sigmoid(a) }"
    )
    relu, sigmoid = model.graph[0], model.graph[1]
    assert useful_range(relu.outputs[0], (-90.0, 100.0)) == (-90, 100)
    assert useful_range(sigmoid.outputs[0], (0.0, 1.0)) == (0, 1)
    assert useful_range(model.graph.inputs[0], (-90.0, math.pi)) == (-90, math.pi)
