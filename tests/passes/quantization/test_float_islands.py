"""Nodes left in float between quantized ones are computed in float by ONNX Runtime too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from onnxopt.calibration.collecting import collect
from onnxopt.calibration.data import open_data
from onnxopt.graph.calibrated import Ranges
from onnxopt.graph.quantization import Encoding
from onnxopt.passes.quantization.qdq import InsertQdq
from onnxopt.runtime.session import open_session

MIDDLES = {
    "Conv": ("Conv <pads = [1, 1, 1, 1]> (r, m, n)", (16, 16, 3, 3)),
    "depthwise": ("Conv <group = 16, pads = [1, 1, 1, 1]> (r, m, n)", (16, 1, 3, 3)),
    "ConvTranspose": ("ConvTranspose (r, m, n)", (16, 16, 2, 2)),
}


def network(middle: str, opset: int) -> ir.Model:
    """Two Convs with another node between."""
    call, shape = MIDDLES[middle]
    model = ir.from_onnx_text(
        f'<ir_version: 8, opset_import: ["" : {opset}, "com.microsoft" : 1]>'
        " g (float[1, 16, 12, 12] x) => (float[1, 16, H, W] y) {"
        " c = Conv <pads = [1, 1, 1, 1]> (x, w) r = Relu(c)"
        f" d = {call} s = Relu(d) y = Conv <pads = [1, 1, 1, 1]> (s, v) }}"
    )
    rng = np.random.default_rng(0)
    arrays = {"w": rng.standard_normal((16, 16, 3, 3)), "v": rng.standard_normal((16, 16, 3, 3))}
    arrays["m"], arrays["n"] = rng.standard_normal(shape), rng.standard_normal(16)
    for value in [v for node in model.graph for v in node.inputs if v is not None]:
        if value.name in arrays and not value.is_initializer():
            array = (arrays[value.name] / 12).astype(np.float32)
            value.const_value = ir.Tensor(array, name=value.name)
            model.graph.register_initializer(value)
    for node in model.graph:
        node.name = node.outputs[0].name
    return model


def quantized(model: ir.Model, **options: Any) -> tuple[ir.Model, list[dict[str, np.ndarray]]]:
    rng = np.random.default_rng(1)
    feeds = [{"x": rng.standard_normal((1, 16, 12, 12)).astype(np.float32)} for _ in range(4)]
    names = ["x", *(node.outputs[0].name or "" for node in model.graph)]
    table = collect(model, names, open_data(feeds, model))
    result = model.clone()
    ranges = Ranges(table.ranges("min-max", Encoding("uint8")))
    InsertQdq(ranges=ranges, reduce_range=True, **options)(result)
    onnx.checker.check_model(ir.to_proto(result))
    return result, feeds


def as_run(model: ir.Model, path: Path) -> list[str]:
    """The operators that ONNX Runtime runs."""
    settings = onnxruntime.SessionOptions()
    settings.optimized_model_filepath = str(path)
    settings.log_severity_level = 3
    data = ir.to_proto(model).SerializeToString()
    onnxruntime.InferenceSession(data, settings, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(path).graph.node]


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("middle", MIDDLES)
def test_a_float_node_between_quantized_ones_stays_float(
    middle: str, opset: int, tmp_path: Path
) -> None:
    model = network(middle, opset)
    result, feeds = quantized(model, exclude=("d",))
    types = as_run(result, tmp_path / "run.onnx")
    assert types.count("QLinearConv") == 2
    assert types.count("Conv") + types.count("ConvTranspose") + types.count("FusedConv") == 1
    one, other = (open_session(m).run(feeds[0])["y"] for m in (model, result))
    assert np.abs(one - other).max() < 0.05 * np.abs(one).max()


def test_without_it_onnxruntime_quantizes_the_weight(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = network("ConvTranspose", 17)
    assert float_weight_of("ConvTranspose", quantized(model)[0], tmp_path / "a.onnx")
    monkeypatch.setattr("onnxopt.passes.quantization.inserting.isolate", lambda *_: None)
    assert not float_weight_of("ConvTranspose", quantized(model)[0], tmp_path / "b.onnx")


def float_weight_of(op_type: str, model: ir.Model, path: Path) -> bool:
    """True if ONNX Runtime runs the node with a weight that is a float constant."""
    as_run(model, path)
    graph = onnx.load(path).graph
    (node,) = [node for node in graph.node if node.op_type == op_type]
    return node.input[1] in {
        one.name for one in graph.initializer if one.data_type == onnx.TensorProto.FLOAT
    }


def test_regions_without_float_nodes_have_one_scale_each() -> None:
    result, _ = quantized(network("Conv", 17))
    pairs = [n for n in result.graph if n.op_type == "DequantizeLinear"]
    activations = [n for n in pairs if n.inputs[0] is not None and n.inputs[0].producer()]
    assert activations
    assert all("axis" not in node.attributes for node in activations)
