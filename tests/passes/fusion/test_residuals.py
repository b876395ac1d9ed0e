"""`SumResiduals`: Add before a normalization becomes Sum, and nothing else does."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common
import onnxruntime as ort
import pytest
from helpers.rewriting import assert_rewrites, op_types, parse_model

from onnxopt.passes.fusion.residuals import SumResiduals

WEIGHTS = {"s": np.ones(8, np.float32), "b": np.zeros(8, np.float32)}


def model_of(
    x: str = "float[N, 4, 8] x", y: str = "float[N, 4, 8] y", out: str = "float[N, 4, 8] z"
) -> ir.Model:
    model = parse_model(
        f"g ({x}, {y}) => ({out}) {{ a = Add(x, y) z = LayerNormalization <axis = -1> (a, s, b) }}",
        WEIGHTS,
    )
    ir.passes.common.ShapeInferencePass()(model)
    return model


def loaded_op_types(model: ir.Model, path: str) -> set[str]:
    options = ort.SessionOptions()
    options.optimized_model_filepath = path
    options.log_severity_level = 4
    ort.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return {node.op_type for node in ir.load(path).graph}


def test_runtime_no_longer_fuses_when_add_is_a_sum(tmp_path: object) -> None:
    before = loaded_op_types(model_of(), f"{tmp_path}/before.onnx")
    model = model_of()
    assert_rewrites(
        SumResiduals(), model, expect=["Sum", "LayerNormalization"], rewrites=1, rtol=0, atol=0
    )
    after = loaded_op_types(model, f"{tmp_path}/after.onnx")
    assert "SkipLayerNormalization" in before
    assert "SkipLayerNormalization" not in after


def test_decomposed_normalization_counts_when_the_operator_is_not_there() -> None:
    model = parse_model(
        """g (float[N, 4, 8] x, float[N, 4, 8] y) => (float[N, 4, 8] z)
        { a = Add(x, y) m = ReduceMean <axes = [-1]> (a) z = Sub(a, m) }""",
        opset=13,
    )
    ir.passes.common.ShapeInferencePass()(model)
    assert_rewrites(
        SumResiduals(), model, expect=["Sum", "ReduceMean", "Sub"], rewrites=1, rtol=0, atol=0
    )


def test_residual_stream_keeps_its_name_when_it_is_an_output_too() -> None:
    model = parse_model(
        """g (float[N, 4, 8] x, float[N, 4, 8] y) => (float[N, 4, 8] a, float[N, 4, 8] z)
        { a = Add(x, y) z = LayerNormalization <axis = -1> (a, s, b) }""",
        WEIGHTS,
    )
    assert_rewrites(
        SumResiduals(), model, expect=["Sum", "LayerNormalization"], rewrites=1, rtol=0, atol=0
    )


@pytest.mark.parametrize(
    ("x", "y", "out"),
    [
        ("float[N, 4, 8] x", "float[8] y", "float[N, 4, 8] z"),
        ("float[N, 8] x", "float[N, 8] y", "float[N, 8] z"),
        ("float[N, M, 8] x", "float[N, K, 8] y", "float[N, P, 8] z"),
        ("float[1, 2, 4, 8] x", "float[1, 2, 4, 8] y", "float[1, 2, 4, 8] z"),
    ],
)
def test_add_stays_when_the_runtime_would_not_fuse_it(x: str, y: str, out: str) -> None:
    model = model_of(x, y, out)
    assert not SumResiduals()(model).modified
    assert op_types(model)[0] == "Add"


def test_add_stays_when_no_normalization_reads_it() -> None:
    model = parse_model(
        "g (float[N, 4, 8] x, float[N, 4, 8] y) => (float[N, 4, 8] z) { a = Add(x, y) z = Relu(a) }"
    )
    assert not SumResiduals()(model).modified
