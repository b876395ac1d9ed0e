"""What is said of ONNX Runtime's integer kernels is still so in the release that is installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxopt.graph.integer_kernels import WITHOUT_KERNEL


def left_in_float(op_type: str, weight: tuple[int, ...], folder: Path) -> bool:
    """True if ONNX Runtime computes the operator in float between pairs."""
    rng = np.random.default_rng(0)
    arrays = {
        "s": np.float32(0.02),
        "z": np.uint8(128),
        "w": rng.integers(-60, 60, weight).astype(np.int8),
        "zw": np.int8(0),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "s", "zw"], ["dw"]),
        helper.make_node(op_type, ["d", "dw"], ["c"]),
        helper.make_node("QuantizeLinear", ["c", "s", "z"], ["qc"]),
        helper.make_node("DequantizeLinear", ["qc", "s", "z"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = onnx.load(folder / "optimized.onnx")
    return any(node.op_type == op_type for node in found.graph.node)


@pytest.mark.parametrize(("op_type", "expected"), [("Conv", False), ("ConvTranspose", True)])
def test_onnxruntime_has_the_kernels_that_are_assumed(
    op_type: str, expected: bool, tmp_path: Path
) -> None:
    assert left_in_float(op_type, (16, 16, 2, 2), tmp_path) == expected
    assert (op_type in WITHOUT_KERNEL) == expected
