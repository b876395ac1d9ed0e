from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers.broken_models import refusal

from onnxopt.core.errors import InvalidInputError
from onnxopt.graph.input_shapes import fix_input_shapes


def _model(*dims, output=("?", "n")):
    def value(name, shape):
        kind = ir.TensorType(ir.DataType.FLOAT)
        return ir.Value(name=name, type=kind, shape=ir.Shape(shape))

    inputs = [value("x", dims), value("z", dims)]
    graph = ir.Graph(inputs, [value("y", output)], nodes=[], opset_imports={"": 18})
    return ir.Model(graph, ir_version=10)


def test_symbol_is_replaced_everywhere():
    model = _model("n", 4, output=("n", 4))
    fix_input_shapes(model, {"x": [3, 4]})
    assert [str(v.shape) for v in (*model.graph.inputs, *model.graph.outputs)] == ["[3,4]"] * 3


@pytest.mark.parametrize("text", ["?", "-1", "None", "", "unknown", None])
def test_placeholder_is_no_symbol(text):
    model = _model(text, text, output=(text, "n"))
    fix_input_shapes(model, {"x": [2, 3]})
    x, z = model.graph.inputs
    assert str(x.shape) == "[2,3]"
    assert z.shape == ir.Shape([text, text])
    assert model.graph.outputs[0].shape == ir.Shape([text, "n"])


def test_declared_minus_one_is_free():
    model = _model(-1, 4)
    fix_input_shapes(model, {"x": (np.int64(2), 4)})
    assert str(model.graph.inputs[0].shape) == "[2,4]"


@pytest.mark.parametrize(
    "shape", [[2.0, 4], ["2", 4], [-1, 4], [None, 4], [True, 4], [2**63, 4], "24", 4, None]
)
def test_what_is_no_shape_is_refused(shape):
    refusal(
        lambda: fix_input_shapes(_model("n", 4), {"x": shape}), InvalidInputError, "whole number"
    )


@pytest.mark.parametrize(
    ("shape", "words"), [([4], "2 dimensions"), ([2, 5], "fixed to"), ([2, 3], "would be 2 and 3")]
)
def test_shape_that_does_not_fit_is_refused(shape, words):
    dims = ("n", "n") if words.startswith("would") else ("n", 4)
    refusal(lambda: fix_input_shapes(_model(*dims), {"x": shape}), InvalidInputError, words)


def test_shapes_that_are_no_mapping_are_refused():
    refusal(lambda: fix_input_shapes(_model("n"), [("x", [1])]), InvalidInputError, "by input name")
