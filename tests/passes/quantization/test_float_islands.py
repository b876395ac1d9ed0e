"""Nodes left in float between quantized ones are computed in float by ONNX Runtime too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from helpers.rewriting import parse_model

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


def quantized_before(opset: int, zero_point: str, last: str = "r") -> ir.Model:
    """A float Conv between pairs, with or without zero points."""
    rng = np.random.default_rng(0)
    arrays = {"s": np.array(0.1, np.float32), "w": rng.standard_normal((8, 4, 3, 3), np.float32)}
    if zero_point:
        arrays["z"] = np.array(0, np.uint8)
    if last == "n":
        arrays["v"] = rng.standard_normal((8, 8, 3, 3), np.float32)
    return parse_model(
        "g (float[1, 4, 8, 8] x) => (float[1, 8, 6, 6] y) {"
        f" q = QuantizeLinear(x, s{zero_point}) d = DequantizeLinear(q, s{zero_point})"
        " c = Conv(d, w) r = Relu(c)"
        f"{' n = Conv <pads = [1, 1, 1, 1]> (r, v)' if last == 'n' else ''}"
        f" p = QuantizeLinear({last}, s{zero_point}) y = DequantizeLinear(p, s{zero_point}) }}",
        arrays,
        opset=opset,
    )


@pytest.mark.parametrize("opset", [12, 13, 17])
@pytest.mark.parametrize("zero_point", ["", ", z"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_what_was_quantized_before_is_left_as_it_is(
    opset: int, zero_point: str, per_channel: bool
) -> None:
    model = quantized_before(opset, zero_point)
    before = ir.to_proto(model)
    assert not InsertQdq(per_channel=per_channel)(model).modified
    after = ir.to_proto(model)
    assert [str(node) for node in after.graph.node] == [str(node) for node in before.graph.node]
    assert after.opset_import == before.opset_import


@pytest.mark.parametrize("opset", [12, 17])
@pytest.mark.parametrize("zero_point", ["", ", z"])
def test_a_float_node_between_an_old_pair_and_a_new_one_stays_float(
    opset: int, zero_point: str, tmp_path: Path
) -> None:
    model = quantized_before(opset, zero_point, "n")
    model.opset_imports.pop("com.microsoft", None)
    before = model.clone()
    ranges = Ranges({"r": (0.0, 20.0), "n": (-100.0, 100.0)})
    result = InsertQdq(ranges=ranges, per_channel=False, reduce_range=True)(model)
    assert result.rewrites == {"Conv": 1}
    onnx.checker.check_model(ir.to_proto(model))
    assert model.opset_imports.get("com.microsoft") == (1 if opset == 12 else None)
    types = as_run(model, tmp_path / "run.onnx")
    assert types.count("QLinearConv") == 1
    assert types.count("Conv") + types.count("FusedConv") == 1
    feeds = {"x": np.random.default_rng(2).random((1, 4, 8, 8), np.float32)}
    one, other = (open_session(m).run(feeds)["y"] for m in (before, model))
    assert np.abs(one - other).max() < 0.05 * np.abs(one).max()
