import subprocess
import sys

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from onnxopt.core.errors import MissingDependencyError
from onnxopt.runtime.library import CannotRunError, one_line
from onnxopt.runtime.session import open_session
from onnxopt.runtime.skeleton import serialize_skeleton


def parse(text: str, **weights: np.ndarray) -> onnx.ModelProto:
    model = onnx.parser.parse_model(text)
    for name, array in weights.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return model


LINEAR = """<ir_version: 9, opset_import: ["": 18]>
    linear (float[N, 64] x) => (float[N, 48] y) { y = MatMul(x, w) }"""


@pytest.fixture(scope="module")
def linear():
    weight = np.random.default_rng(0).standard_normal((64, 48), dtype=np.float32)
    return parse(LINEAR, w=weight), weight


def test_the_same_result_from_a_path_bytes_and_memory(linear, tmp_path):
    proto, weight = linear
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    x = np.ones((2, 64), np.float32)
    for source in (path, str(path), proto.SerializeToString(), ir.from_proto(proto)):
        result = open_session(source).run({"x": x})
        np.testing.assert_allclose(result["y"], x @ weight, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("optimization", ["all", "extended", "basic", "disabled"])
def test_every_optimization_level_runs(linear, optimization):
    session = open_session(ir.from_proto(linear[0]), optimization=optimization, threads=1)
    assert session.run({"x": np.ones((1, 64), np.float32)})["y"].shape == (1, 48)


def test_large_weights_are_left_out_of_the_skeleton_without_a_copy(linear):
    weight = np.ones((64, 48), np.float32)
    model = ir.from_proto(linear[0])
    model.graph.initializers["w"].const_value = ir.tensor(weight, name="w")
    data, weights = serialize_skeleton(model)
    assert np.shares_memory(weights["w"][0], weight)
    assert len(data) < 1000
    assert model.graph.initializers["w"].const_value.numpy() is weight


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.int8, np.float64, np.bool_])
def test_large_weights_of_every_type_reach_the_runtime(dtype):
    weight = (np.arange(8192) % 2).astype(dtype)
    model = ir.from_proto(
        parse(
            """<ir_version: 9, opset_import: ["": 18]>
            g (float[1] x) => (float[8192] y) { f = Cast<to = 1>(w) y = Add(x, f) }"""
        )
    )
    value = ir.Value(name="w", const_value=ir.tensor(weight, name="w"))
    value.dtype, value.shape = ir.DataType.from_numpy(weight.dtype), ir.Shape([8192])
    model.graph.initializers["w"] = value
    for node in model.graph:
        for index, used in enumerate(node.inputs):
            if used is not None and used.name == "w":
                node.replace_input_with(index, value)
    result = open_session(model).run({"x": np.zeros(1, np.float32)})["y"]
    np.testing.assert_array_equal(result, np.arange(8192) % 2)


def test_bfloat16_goes_in_and_out():
    model = parse(
        """<ir_version: 9, opset_import: ["": 18]>
        g (bfloat16[N] x) => (bfloat16[N] y) { y = Identity(x) }"""
    )
    x = np.array([1.5, -2.0, 3.0], ml_dtypes.bfloat16)
    result = open_session(model.SerializeToString()).run({"x": x})["y"]
    assert result.dtype == x.dtype
    np.testing.assert_array_equal(result, x)


def test_failures_are_one_clean_line(linear):
    session = open_session(ir.from_proto(linear[0]))
    with pytest.raises(CannotRunError) as wrong:
        session.run({"x": np.ones((2, 63), np.float32)})
    assert "Expected: 64" in wrong.value.reason
    with pytest.raises(CannotRunError, match="input 'x' is not fed"):
        session.run({})
    with pytest.raises(CannotRunError) as broken:
        open_session(b"no model")
    for error in (wrong.value, broken.value):
        assert "\n" not in error.reason
        assert "ONNXRuntimeError" not in error.reason
        assert ".cc:" not in error.reason


def test_unknown_operator_cannot_be_run():
    model = parse(
        """<ir_version: 9, opset_import: ["": 18, "custom": 1]>
        g (float[N] x) => (float[N] y) { y = custom.Frobnicate(x) }"""
    )
    with pytest.raises(CannotRunError, match="Frobnicate"):
        open_session(ir.from_proto(model))


def test_missing_onnxruntime_names_the_command_that_installs_it(linear, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'onnxopt\[cpu\]'"):
        open_session(linear[0].SerializeToString())


def test_importing_the_package_loads_no_runtime():
    code = (
        "import sys, onnxopt, onnxopt.runtime.inputs.plan, onnxopt.runtime.parity.check; "
        "sys.exit('onnxruntime' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_weight_that_nothing_uses_is_left_out(linear):
    model = ir.from_proto(linear[0])
    array = np.zeros((64, 64), np.float32)
    model.graph.register_initializer(ir.val("spare", const_value=ir.tensor(array, name="spare")))
    result = open_session(model).run({"x": np.ones((2, 64), np.float32)})
    assert result["y"].shape == (2, 48)
    assert "spare" in model.graph.initializers


def test_message_of_megabytes_is_one_short_line():
    line = one_line(RuntimeError("/path/to: ," * 1_000_000))
    assert len(line) <= 400
    assert line.endswith("...")
