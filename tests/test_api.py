"""The Python API: models in memory stay as they are, results can be saved, errors are typed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from helpers.rewriting import op_types, parse_model

import onnxopt
from onnxopt.core.errors import InvalidInputError, SaveError
from onnxopt.inspecting import inspect_model

MODEL = """g (float[N, 4] x) => (float[N, 4] y) {
    a = Identity(x) b = MatMul(a, w) c = MatMul(b, w) y = Relu(c)
}"""


def make() -> ir.Model:
    weight = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
    return parse_model(MODEL, {"w": weight})


def test_model_in_memory_is_left_alone_and_weights_are_shared() -> None:
    model = make()
    result = onnxopt.optimize(model)
    assert op_types(model) == ["Identity", "MatMul", "MatMul", "Relu"]
    assert op_types(result.model) == ["MatMul", "MatMul", "Relu"]
    before, after = (m.graph.initializers["w"].const_value for m in (model, result.model))
    assert before is after
    assert result.report.parity is not None
    assert result.report.parity["status"] == "passed"


def test_protobuf_model_is_accepted_and_left_alone() -> None:
    proto = ir.to_proto(make())
    data = proto.SerializeToString()
    assert len(onnxopt.optimize(proto).model.graph) == 3
    assert proto.SerializeToString() == data


def test_saved_result_loads_back_when_written_over_its_input(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(ir.to_proto(make()), path)
    result = onnxopt.optimize(path, path)
    assert op_types(onnxopt.load(path)) == op_types(result.model)
    # The model in memory still reads the weights of the file that it replaced.
    tensor = result.model.graph.initializers["w"].const_value
    assert tensor is not None
    assert np.isfinite(tensor.numpy()).all()


def test_own_data_decides_parity_when_given() -> None:
    data = {"x": np.ones((7, 4), np.float32)}
    report = onnxopt.optimize(make(), inputs=data).report
    assert report.parity is not None
    assert any("given data" in text for text in report.parity["inputs"])
    with pytest.raises(InvalidInputError):
        onnxopt.optimize(make(), inputs={"z": np.ones(3, np.float32)})


def test_input_shape_is_fixed_in_inputs_and_outputs_when_asked() -> None:
    model = onnxopt.optimize(make(), input_shapes={"x": (2, 4)}).model
    assert str(model.graph.inputs[0].shape) == "[2,4]"
    assert str(model.graph.outputs[0].shape) == "[2,4]"


@pytest.mark.parametrize("options", [{"guard": "maybe"}, {"target": "tpu"}])
def test_bad_options_are_named(options: dict[str, str]) -> None:
    with pytest.raises(InvalidInputError, match=next(iter(options.values()))):
        onnxopt.optimize(make(), **options)  # type: ignore[arg-type]


def test_data_without_a_check_contradicts_itself() -> None:
    with pytest.raises(InvalidInputError, match="guard"):
        onnxopt.optimize(make(), inputs={"x": np.ones((7, 4), np.float32)}, guard="off")


def test_bad_target_is_found_before_any_pass_runs(tmp_path: Path) -> None:
    class Count(onnxopt.Observer):
        started = 0

        def pass_started(self, names: object, model: ir.Model) -> None:
            self.started += 1

    count = Count()
    for target in (tmp_path, tmp_path / "no" / "m.onnx"):
        with pytest.raises(SaveError):
            onnxopt.optimize(make(), target, observers=[count])
    assert count.started == 0


def test_data_file_of_the_input_is_refused_even_if_nothing_of_it_is_left(tmp_path: Path) -> None:
    model = make()
    model.graph.initializers["w"].const_value = ir.tensor(np.zeros((4, 4), np.float32))
    path = tmp_path / "m.onnx"
    onnx.save(
        ir.to_proto(model), path, save_as_external_data=True, location="big", size_threshold=0
    )
    content = (tmp_path / "big").read_bytes()
    with pytest.raises(SaveError, match="external data of the input"):
        onnxopt.optimize(path, tmp_path / "big")
    assert (tmp_path / "big").read_bytes() == content


RESHAPES = "g (float[N, 4] x) => (float[M, 8] y) { s = Constant <value_ints = [-1, 8]> () " + (
    "y = Reshape(x, s) }"
)


def test_shapes_and_data_that_the_original_cannot_run_are_refused(tmp_path: Path) -> None:
    target = tmp_path / "o.onnx"
    model = parse_model(RESHAPES)
    assert onnxopt.optimize(model, input_shapes={"x": (2, 4)}).report.exit_code == 0
    with pytest.raises(InvalidInputError, match="given input shapes"):
        onnxopt.optimize(model, target, input_shapes={"x": (3, 4)})
    with pytest.raises(InvalidInputError, match="given inputs"):
        onnxopt.optimize(model, target, inputs={"x": np.ones((3, 4), np.float32)})
    with pytest.raises(InvalidInputError, match="too large"):
        onnxopt.optimize(model, target, input_shapes={"x": (2**62, 4)})
    assert not target.exists()


def test_same_kinds_of_model_are_taken_everywhere(tmp_path: Path) -> None:
    proto = ir.to_proto(make())
    onnxopt.save(proto, tmp_path / "m.onnx")
    for model in (proto, make(), tmp_path / "m.onnx", str(tmp_path / "m.onnx")):
        assert inspect_model(model).nodes == 4
    for thing in (b"m.onnx", 5, None):
        for call in (onnxopt.optimize, inspect_model):
            with pytest.raises(InvalidInputError, match="no model"):
                call(thing)  # type: ignore[operator]


def test_public_names_resolve() -> None:
    for name in onnxopt.__all__:
        assert getattr(onnxopt, name) is not None
    assert set(onnxopt.__all__) <= set(dir(onnxopt))
    with pytest.raises(AttributeError):
        _ = onnxopt.nonsense
