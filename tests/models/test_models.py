import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from big_external import big_external
from cache import cache_dir, locate, materialize
from digits_data import digits
from digits_training import accuracy
from registry import MODELS, model
from spec import Input, ModelSpec, example_inputs

COMMITTED = [spec for spec in MODELS if spec.committed]


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("ONNXOPT_CACHE", str(folder))
    return folder


def spec_of(build) -> ModelSpec:
    return ModelSpec(name="toy", source="", opset=18, inputs={}, tolerance=0.0, build=build)


def test_names_are_unique():
    names = [spec.name for spec in MODELS]
    assert len(set(names)) == len(names)


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(KeyError, match="resnet50_ts"):
        model("resnet")


@pytest.mark.parametrize("spec", COMMITTED, ids=lambda spec: spec.name)
def test_a_committed_model_is_what_its_specification_says(spec: ModelSpec):
    proto = onnx.load(materialize(spec))
    onnx.checker.check_model(proto, full_check=True)
    assert locate(spec).stat().st_size < 500_000
    assert {entry.domain: entry.version for entry in proto.opset_import} == {"": spec.opset}
    shapes = {
        value.name: tuple(
            dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim
        )
        for value in proto.graph.input
    }
    assert shapes == {name: entry.shape for name, entry in spec.inputs.items()}


@pytest.mark.parametrize("spec", COMMITTED, ids=lambda spec: spec.name)
def test_a_committed_model_reaches_its_recorded_accuracy(spec: ModelSpec):
    metadata = {entry.key: entry.value for entry in onnx.load(locate(spec)).metadata_props}
    recorded = float(metadata["test_accuracy"])
    assert recorded > 0.98
    # One image may fall to the other side on another processor.
    assert accuracy(locate(spec)) == pytest.approx(recorded, abs=1.5 / len(digits().test_labels))


@pytest.mark.parametrize("spec", COMMITTED, ids=lambda spec: spec.name)
def test_a_committed_model_names_no_local_file(spec: ModelSpec):
    assert b"site-packages" not in locate(spec).read_bytes()


@pytest.mark.parametrize("spec", COMMITTED, ids=lambda spec: spec.name)
def test_a_committed_model_has_work_left_for_an_optimizer(spec: ModelSpec):
    kinds = {node.op_type for node in onnx.load(locate(spec)).graph.node}
    assert {"Shape", "Reshape", "Constant"} <= kinds
    assert kinds & {"BatchNormalization", "Erf"}


def test_the_digits_are_split_by_class():
    data = digits()
    assert len(data.train_labels) + len(data.test_labels) == 1797
    counts = np.bincount(data.test_labels)
    assert counts.min() >= 43
    assert counts.max() <= 46


@pytest.mark.parametrize("error", [RuntimeError, OSError, KeyboardInterrupt])
def test_an_interrupted_build_leaves_nothing(empty_cache: Path, error: type[BaseException]):
    def build(path: Path) -> None:
        path.write_bytes(b"half")
        raise error

    with pytest.raises(error):
        materialize(spec_of(build))
    assert list(empty_cache.iterdir()) == []


def test_a_model_is_built_once_for_each_version(empty_cache: Path):
    builds = []

    def build(path: Path) -> None:
        builds.append(path)
        path.write_bytes(b"model")

    spec = spec_of(build)
    first = materialize(spec)
    assert materialize(spec) == first == empty_cache / "toy-v1" / "toy.onnx"
    assert len(builds) == 1
    second = materialize(dataclasses.replace(spec, version=2))
    assert second != first
    assert len(builds) == 2
    assert sorted(empty_cache.iterdir()) == [first.parent, second.parent]


def test_the_first_of_two_simultaneous_builds_wins(empty_cache: Path):
    def build(path: Path) -> None:
        path.write_bytes(b"late")
        locate(spec).parent.mkdir()
        locate(spec).write_bytes(b"early")

    spec = spec_of(build)
    assert materialize(spec).read_bytes() == b"early"
    assert list(empty_cache.iterdir()) == [locate(spec).parent]


def test_a_missing_committed_model_names_the_script_that_makes_it():
    spec = dataclasses.replace(COMMITTED[0], name="lost")
    with pytest.raises(FileNotFoundError, match=r"models/lost\.py"):
        materialize(spec)


def test_the_cache_is_in_the_home_folder_by_default(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("ONNXOPT_CACHE", raising=False)
    assert cache_dir() == Path.home() / ".cache" / "onnxopt" / "models"


def test_large_weights_lie_beside_the_model(empty_cache: Path):
    spec = big_external(0.0625)
    path = materialize(spec)
    assert path.stat().st_size < 10_000
    assert path.with_name(f"{path.name}.data").stat().st_size == 4 * (4096 + 1) * 4096
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (result,) = session.run(None, example_inputs(spec.inputs, {"batch": 1}))
    assert result.shape == (1, 4096)
    assert 0.1 < result.std() < 10


def test_examples_of_a_decoder_agree_with_each_other():
    spec = model("llama168m")
    arrays = example_inputs(spec.inputs, {"batch": 3, "sequence": 4, "past": 9})
    assert arrays["past_key_values.0.key"].shape == (3, 4, 9, 64)
    assert arrays["input_ids"].max() < 32000
    mask, positions = arrays["attention_mask"], arrays["position_ids"]
    assert mask.shape == (3, 13)
    assert (mask.sum(axis=1) == [13, 12, 10]).all()
    assert (mask[:, 9:] == 1).all()
    assert (positions[:, -1] == mask.sum(axis=1) - 1).all()


def test_examples_of_an_encoder_pad_on_the_right():
    arrays = example_inputs(model("minilm_ts").inputs, {"batch": 2, "sequence": 8})
    assert arrays["attention_mask"].tolist() == [[1] * 8, [1] * 6 + [0] * 2]
    assert arrays["token_type_ids"][0].tolist() == [0] * 4 + [1] * 4


def test_examples_are_seeded():
    inputs = model("resnet50_ts").inputs
    first, again, other = (example_inputs(inputs, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first["pixel_values"], again["pixel_values"])
    assert not np.array_equal(first["pixel_values"], other["pixel_values"])


def test_positions_without_a_mask_are_refused():
    with pytest.raises(ValueError, match="'mask'"):
        example_inputs({"position_ids": Input("int64", ("batch", "sequence"), "positions")})


def test_the_command_lists_without_building(empty_cache: Path):
    script = Path(sys.modules["registry"].__file__ or "").with_name("build.py")
    command = [sys.executable, str(script), "--list", "digits_cnn", "swin_tiny_ts"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert "nodes" in lines[0]
    assert "(not built)" in lines[1]
    assert not empty_cache.exists()
