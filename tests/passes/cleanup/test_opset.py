"""Raising the opset: attributes become inputs, weights stay shared, what cannot be is an error."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers.rewriting import op_types, parse_model, random_feeds, run

from onnxopt.core.errors import InvalidInputError, InvalidModelError
from onnxopt.passes.cleanup.opset import ConvertOpset

SQUEEZE = "g (float[N, 1, 4] x) => (float[N, 4] y) { y = Squeeze <axes = [1]> (x) }"


@pytest.mark.parametrize("version", [13, 18, 21])
def test_attribute_becomes_input_when_opset_rises(version: int) -> None:
    model = parse_model(SQUEEZE, opset=11)
    original = model.clone()
    result = ConvertOpset(version=version)(model)
    assert result.modified
    assert model.opset_imports[""] == version
    feeds = random_feeds(original, {"N": 3})
    np.testing.assert_array_equal(run(model, feeds)[0], run(original, feeds)[0])


def test_nothing_changes_when_version_is_the_models_own() -> None:
    model = parse_model(SQUEEZE, opset=11)
    assert not ConvertOpset(version=11)(model).modified


def test_large_weights_are_kept_as_objects_when_opset_rises() -> None:
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    model = parse_model(
        "g (float[N, 64] x) => (float[N, 64] y) { y = MatMul(x, w) }", {"w": weight}, opset=11
    )
    tensor = model.graph.initializers["w"].const_value
    ConvertOpset(version=18)(model)
    assert model.graph.initializers["w"].const_value is tensor


def test_subgraph_is_converted_when_it_holds_the_operator() -> None:
    model = parse_model(
        """g (float[N, 1, 4] x, bool c) => (float[N, 4] y) {
            y = If (c) <
                then_branch = t () => (float[N, 4] p) { p = Squeeze <axes = [1]> (x) },
                else_branch = e () => (float[N, 4] q) { u = Squeeze <axes = [1]> (x) q = Neg(u) }
            >
        }""",
        opset=11,
    )
    original = model.clone()
    ConvertOpset(version=18)(model)
    assert op_types(model)[-1] == "If"
    for condition in (True, False):
        feeds = random_feeds(original, {"N": 2}) | {"c": np.array(condition)}
        np.testing.assert_array_equal(run(model, feeds)[0], run(original, feeds)[0])


@pytest.mark.parametrize(
    ("version", "message"), [(10, "can only be raised"), (999, "knows opsets up to")]
)
def test_error_says_what_is_possible_when_version_is_not(version: int, message: str) -> None:
    model = parse_model(SQUEEZE, opset=11)
    with pytest.raises(InvalidInputError, match=message):
        ConvertOpset(version=version)(model)
    assert isinstance(model, ir.Model)
    assert model.opset_imports[""] == 11


@pytest.mark.parametrize(
    "operator",
    [
        "Affine <alpha = 1.5, beta = 0.25> (x)",
        "ImageScaler <bias = [1.0, -2.0, 3.0], scale = 0.5> (x)",
        "Crop <border = [1, 2, 0, 1]> (x)",
        "Crop <border = [1, 2, 0, 0], scale = [3, 2]> (x)",
        "Scale <scale = 3.0> (x)",
        "ScaledTanh <alpha = 1.5, beta = 0.5> (x)",
        "ParametricSoftplus <alpha = 1.5, beta = 0.5> (x)",
    ],
)
@pytest.mark.parametrize("opset", [7, 9])
def test_operators_that_left_the_standard_are_rewritten(operator: str, opset: int) -> None:
    text = "g (float[N, 3, 6, 7] x, bool c) => (float[N, 3, H, W] y) { z = OP y = Abs(z) }"
    inner = """g (float[N, 3, 6, 7] x, bool c) => (float[N, 3, H, W] y) {
        y = If (c) <then_branch = t () => (float[N, 3, H, W] p) { p = OP },
                    else_branch = e () => (float[N, 3, H, W] q) { q = Identity(x) }> }"""
    for body in (text, inner):
        model = parse_model(body.replace("OP", operator), opset=opset, ir_version=8)
        original = model.clone()
        ConvertOpset(version=13)(model)
        feeds = random_feeds(original, {"N": 2}) | {"c": np.array(True)}
        np.testing.assert_allclose(run(model, feeds)[0], run(original, feeds)[0], rtol=1e-6)


@pytest.mark.parametrize(("axis", "shape"), [(1, (3,)), (1, (3, 4)), (2, (4,)), (3, (5,))])
def test_broadcasts_of_opset_6_keep_their_axis(axis: int, shape: tuple[int, ...]) -> None:
    bias = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    model = parse_model(
        "g (float[2, 3, 4, 5] x) => (float[2, 3, 4, 5] y) "
        f"{{ r = Relu(x) y = Add<broadcast = 1, axis = {axis}>(r, b) }}",
        {"b": bias},
        opset=6,
        ir_version=3,
    )
    feeds = random_feeds(model, {})
    ConvertOpset(version=13)(model)
    aligned = bias.reshape(*shape, *[1] * (4 - axis - len(shape)))
    expected = np.maximum(feeds["x"], 0) + aligned
    np.testing.assert_allclose(run(model, feeds)[0], expected, rtol=1e-6)


def test_crop_is_refused_when_its_border_is_none() -> None:
    text = "g (float[1,3,4,4] x) => (float[1,3,2,2] y) { y = Crop <border = [1, 1]> (x) }"
    with pytest.raises(InvalidModelError, match="border of 2 numbers"):
        ConvertOpset(version=17)(parse_model(text, opset=8))


def test_image_scaler_without_a_bias_is_a_product() -> None:
    text = "g (float[1,3,4,4] x) => (float[1,3,4,4] y) { y = ImageScaler <scale = 2.0> (x) }"
    model = parse_model(text, opset=8)  # ONNX Runtime wants a bias, the standard does not
    ConvertOpset(version=17)(model)
    assert op_types(model) == ["Mul"]
