"""Every operator that folding evaluates gives what ONNX Runtime gives, at several opsets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.helper
import onnx_ir as ir
import onnxruntime as ort
import pytest
from helpers.operator_cases import Input, floats, ints, operator_cases
from numpy.typing import NDArray

from onnxopt.graph.evaluation import EVALUATED, NotEvaluatedError, evaluate

Array = NDArray[Any]
A = floats(2, 3, 4)
CASES = [
    pytest.param(op, inputs, attributes, opset, id=f"{op}-{opset}-{index}")
    for index, (op, inputs, attributes, opsets) in enumerate(operator_cases())
    for opset in opsets
]


def _node(op: str, inputs: Sequence[Input], attributes: Mapping[str, Any]) -> ir.Node:
    values = [None if x is None else ir.Value(name=f"i{i}") for i, x in enumerate(inputs)]
    count = {"TopK": 2, "Split": 2}.get(op, 1)
    node = ir.node(op, values, attributes=attributes, num_outputs=count)
    for index, value in enumerate(node.outputs):
        value.name = f"o{index}"
    return node


def _in_onnxruntime(node: ir.Node, inputs: Sequence[Input], opset: int) -> list[Array]:
    """Inputs as initializers, so that every dtype can be given; a cast brings bfloat16 back."""
    proto = ir.serde.serialize_node(node)
    nodes, names = [proto], list(proto.output)
    tensors = [
        ir.serde.serialize_tensor(ir.tensor(array, name=f"i{i}"))
        for i, array in enumerate(inputs)
        if array is not None
    ]
    if node.op_type == "Cast" and node.attributes["to"].as_int() == onnx.TensorProto.BFLOAT16:
        nodes.append(onnx.helper.make_node("Cast", ["o0"], ["f"], to=onnx.TensorProto.FLOAT))
        names = ["f"]
    outputs = [onnx.helper.make_value_info(name, onnx.TypeProto()) for name in names]
    graph = onnx.helper.make_graph(nodes, "g", [], outputs, tensors)
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8
    )
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    results: list[Array] = session.run(None, {})
    return results


@pytest.mark.parametrize(("op", "inputs", "attributes", "opset"), CASES)
def test_result_is_that_of_onnxruntime(
    op: str, inputs: Sequence[Input], attributes: Mapping[str, Any], opset: int
) -> None:
    node = _node(op, inputs, attributes)
    arrays = [None if array is None else np.asarray(array) for array in inputs]
    expected = _in_onnxruntime(node, arrays, opset)
    actual = evaluate(node, arrays, opset, [None] * len(node.outputs))
    assert len(actual) == len(expected)
    for ours, theirs in zip(actual, expected, strict=True):
        if ours.dtype == ml_dtypes.bfloat16:
            ours = ours.astype(np.float32)
        assert ours.dtype == theirs.dtype
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=2e-6)


def test_every_evaluated_operator_has_a_case() -> None:
    tested = {op for op, *_ in operator_cases()}
    assert set(EVALUATED) - tested == set()


def _evaluate(op: str, inputs: Sequence[Input], opset: int, **attributes: Any) -> list[Array]:
    node = _node(op, inputs, attributes)
    return evaluate(node, inputs, opset, [None] * len(node.outputs))


@pytest.mark.parametrize("op", ["RandomNormalLike", "DequantizeLinear", "Dropout", "Bernoulli"])
def test_operator_is_refused_when_random_or_part_of_qdq(op: str) -> None:
    with pytest.raises(NotEvaluatedError, match="is not evaluated"):
        _evaluate(op, [A, np.float32(1)], 17)


def test_softmax_is_refused_when_opset_is_before_13() -> None:
    with pytest.raises(NotEvaluatedError, match="Softmax is not evaluated"):
        _evaluate("Softmax", [A], 11)


def test_pad_is_refused_when_reference_does_not_take_negative_pads() -> None:
    with pytest.raises(NotEvaluatedError, match="Pad"):
        _evaluate("Pad", [A, ints(0, -1, 0, 0, 0, -1)], 13)


def test_node_is_refused_when_too_much_work() -> None:
    large = np.broadcast_to(np.float32(0), (2000, 2000))
    with pytest.raises(NotEvaluatedError, match="too much work"):
        _evaluate("MatMul", [large, large], 13)
    with pytest.raises(NotEvaluatedError, match="too much work"):
        _evaluate("ScatterND", [large, ints([0, 0]), np.zeros(1, np.float32)], 13)


def test_result_is_refused_when_dtype_is_not_the_inferred_one() -> None:
    with pytest.raises(NotEvaluatedError, match="gives float32 for FLOAT16"):
        evaluate(_node("Add", [A, A], {}), [A, A], 13, [ir.DataType.FLOAT16])


NAN = np.array([[1, np.nan], [np.nan, 2]], np.float32)
INF = np.array([[1, np.inf], [-np.inf, 2]], np.float32)
IMAGE = floats(1, 1, 5, 4)
ONE = np.float32(1)


@pytest.mark.parametrize(
    ("op", "inputs", "attributes", "reason"),
    [
        ("ArgMax", [NAN], {"axis": 1}, "holds NaN"),
        ("ArgMin", [NAN], {"axis": 1}, "holds NaN"),
        ("Clip", [INF, ONE], {}, "an infinity"),
        ("Clip", [INF, None, ONE], {}, "an infinity"),
        ("Clip", [INF], {}, "an infinity"),
        ("Clip", [A, np.float32(np.nan), ONE], {}, "a bound is NaN"),
        ("LogSoftmax", [INF], {}, "an infinity"),
        ("NonZero", [ONE], {}, "a scalar"),
        ("QuantizeLinear", [INF, ONE], {}, "an infinity"),
        ("ReduceMax", [NAN], {}, "holds NaN"),
        ("ReduceMean", [np.zeros((2, 0), np.float32)], {"axes": [1]}, "is empty"),
        ("ReduceMin", [NAN], {}, "holds NaN"),
        ("Sign", [NAN.astype(np.float16)], {}, "holds NaN"),
        ("Sign", [NAN.astype(ml_dtypes.bfloat16)], {}, "holds NaN"),
        ("TopK", [A, ints(2)], {"sorted": 0}, "order is not specified"),
    ],
)
def test_node_is_refused_when_the_reference_computes_something_else(
    op: str, inputs: Sequence[Input], attributes: Mapping[str, Any], reason: str
) -> None:
    with pytest.raises(NotEvaluatedError, match=f"{op} is not evaluated: .*{reason}"):
        _evaluate(op, inputs, 17, **attributes)


@pytest.mark.parametrize("attributes", [{}, {"mode": "linear"}, {"mode": "cubic"}])
@pytest.mark.parametrize(
    "inputs",
    [
        [IMAGE, None, np.array([1, 1, 0.6, 0.6], np.float32)],
        [IMAGE, None, np.array([1, 1, 1.5, 2], np.float32)],
        [IMAGE, None, None, ints(1, 1, 7, 8)],
    ],
)
def test_resize_is_refused_when_a_scale_is_not_an_integer(
    inputs: Sequence[Input], attributes: Mapping[str, Any]
) -> None:
    with pytest.raises(NotEvaluatedError, match="a scale is not an integer"):
        _evaluate("Resize", inputs, 13, **attributes)


@pytest.mark.parametrize("name", ["antialias", "axes", "keep_aspect_ratio_policy"])
def test_resize_is_refused_when_the_reference_resizes_differently(name: str) -> None:
    value = {"antialias": 1, "axes": [2, 3], "keep_aspect_ratio_policy": "not_larger"}[name]
    with pytest.raises(NotEvaluatedError, match="resizes differently"):
        _evaluate("Resize", [IMAGE, None, None, ints(1, 1, 10, 8)], 19, **{name: value})


TRANSFORMATIONS = """
align_corners asymmetric half_pixel half_pixel_symmetric pytorch_half_pixel
"""


@pytest.mark.parametrize("transformation", TRANSFORMATIONS.split())
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("nearest", ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"])
def test_resize_by_integers_is_that_of_onnxruntime(
    transformation: str, mode: str, nearest: str
) -> None:
    attributes = {
        "coordinate_transformation_mode": transformation,
        "mode": mode,
        "nearest_mode": nearest,
    }
    inputs: list[Input] = [IMAGE, None, None, ints(1, 1, 10, 12)]
    node = _node("Resize", inputs, attributes)
    (expected,) = _in_onnxruntime(node, inputs, 19)
    (actual,) = _evaluate("Resize", inputs, 19, **attributes)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
