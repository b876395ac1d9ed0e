from __future__ import annotations

import filecmp
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from helpers.broken_models import external_model, make_model, weights
from onnx import helper, numpy_helper

from onnxopt.graph import saving
from onnxopt.graph.loading import load_model
from onnxopt.graph.mapped import MappedTensor
from onnxopt.graph.saving import save_model


@pytest.fixture
def loaded(tmp_path):
    """A model whose weights are in in/model.onnx."""
    folder = tmp_path / "in"
    folder.mkdir()
    path = folder / "model.onnx"
    path.write_bytes(make_model().SerializeToString())
    return load_model(path)


def _names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def _run(path):
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": weights(2000, 9)})[0]


EXPECTED = np.maximum(weights(2000, 9) + weights(2000) + weights(1), 0)


@pytest.mark.parametrize("external_data", [None, False, True])
def test_saved_model_computes_the_same_and_passes_the_checker(tmp_path, loaded, external_data):
    files = save_model(loaded, tmp_path / "out.onnx", external_data=external_data)
    names = ["out.onnx", "out.onnx.data"] if external_data else ["out.onnx"]
    assert [file.name for file in files] == names
    assert _names(tmp_path) == ["in", *names]
    onnx.checker.check_model(str(files[0]), full_check=True)
    np.testing.assert_allclose(_run(files[0]), EXPECTED, rtol=1e-6)


def test_saving_and_loading_again_is_byte_for_byte_stable(tmp_path, loaded):
    first, *_ = save_model(loaded, tmp_path / "a.onnx")
    second, *_ = save_model(load_model(first), tmp_path / "b.onnx")
    assert filecmp.cmp(first, second, shallow=False)


def test_file_has_one_graph_field_and_no_value_info_for_weights(tmp_path, loaded):
    from onnxopt.graph.wire import fields

    data = save_model(loaded, tmp_path / "out.onnx")[0].read_bytes()
    assert [number for number, *_ in fields(memoryview(data), 0, len(data))].count(7) == 1
    graph = onnx.ModelProto.FromString(data).graph
    assert [tensor.name for tensor in graph.initializer] == ["w", "b"]
    assert not {"w", "b"} & {info.name for info in graph.value_info}


def test_versions_and_metadata_are_kept(tmp_path, loaded):
    loaded.metadata_props["key"] = "value"
    loaded.graph.initializers["w"].const_value.doc_string = "documentation"
    loaded.graph.initializers["w"].metadata_props["origin"] = "here"
    proto = onnx.load(save_model(loaded, tmp_path / "out.onnx")[0])
    assert (proto.ir_version, proto.opset_import[0].version) == (10, 18)
    assert proto.metadata_props[0].value == "value"
    assert proto.graph.initializer[0].doc_string == "documentation"
    assert proto.graph.value_info[0].metadata_props[0].value == "here"


def test_model_is_left_as_it_is(tmp_path, loaded):
    before = [(value.name, id(value.const_value)) for value in loaded.graph.initializers.values()]
    save_model(loaded, tmp_path / "out.onnx", external_data=True)
    after = [(value.name, id(value.const_value)) for value in loaded.graph.initializers.values()]
    assert before == after
    assert isinstance(loaded.graph.initializers["w"].const_value, MappedTensor)


def test_saving_over_its_own_input_keeps_file_and_model_valid(tmp_path):
    big = weights(600_000)  # 2.4 MB, so that the file is mapped and not copied
    path = tmp_path / "model.onnx"
    path.write_bytes(make_model(initializers={"w": big}).SerializeToString())
    model = load_model(path)
    for _ in range(2):
        save_model(model, path)
        np.testing.assert_array_equal(model.graph.initializers["w"].const_value.numpy(), big)
        np.testing.assert_array_equal(load_model(path).graph.initializers["w"].const_value, big)
    assert _names(tmp_path) == ["model.onnx"]


def test_saving_over_its_own_input_with_external_data_touches_no_old_data(tmp_path, loaded):
    path, old = save_model(loaded, tmp_path / "m.onnx", external_data=True)
    content = old.read_bytes()
    model = load_model(path)
    model.graph.initializers["w"].const_value = ir.tensor(weights(2000, 7))
    _, new = save_model(model, path, external_data=True)
    assert new != old
    assert old.read_bytes() == content
    np.testing.assert_array_equal(
        load_model(path).graph.initializers["w"].const_value, weights(2000, 7)
    )


def test_saving_the_same_again_reuses_the_data_file(tmp_path, loaded):
    first = save_model(loaded, tmp_path / "m.onnx", external_data=True)
    second = save_model(loaded, tmp_path / "m.onnx", external_data=True)
    assert first == second
    assert _names(tmp_path) == ["in", "m.onnx", "m.onnx.data"]


def test_foreign_file_with_the_name_of_the_data_is_not_touched(tmp_path, loaded):
    (tmp_path / "m.onnx.data").write_bytes(b"mine")
    path, data = save_model(loaded, tmp_path / "m.onnx", external_data=True)
    assert (tmp_path / "m.onnx.data").read_bytes() == b"mine"
    assert data.name.startswith("m.onnx.")
    np.testing.assert_allclose(_run(path), EXPECTED, rtol=1e-6)


def test_external_data_loads_and_saves_as_one_file(tmp_path):
    model = load_model(external_model(tmp_path / "in"))
    (path,) = save_model(model, tmp_path / "out.onnx")
    np.testing.assert_allclose(_run(path), EXPECTED, rtol=1e-6)


def test_external_tensors_are_aligned_and_small_ones_stay_inside(tmp_path):
    arrays = {"w": weights(2000), "b": weights(1), "u": weights(300), "v": weights(1 << 18)}
    path = tmp_path / "in.onnx"
    path.write_bytes(make_model(initializers=arrays).SerializeToString())
    out, data = save_model(load_model(path), tmp_path / "out.onnx", external_data=True)
    offsets = {}
    for tensor in onnx.load(out, load_external_data=False).graph.initializer:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if entries:
            offsets[tensor.name] = int(entries["offset"])
            assert entries["location"] == data.name
    assert offsets == {"w": 0, "u": 8192, "v": 65536}


def test_tied_weights_are_written_once_as_external_data(tmp_path, loaded):
    tensor = loaded.graph.initializers["w"].const_value
    for name in ("tied", "also"):
        loaded.graph.register_initializer(ir.Value(name=name, const_value=tensor))
    path, data = save_model(loaded, tmp_path / "m.onnx", external_data=True)
    assert data.stat().st_size == 8000
    again = load_model(path)
    for name in ("w", "tied", "also"):
        np.testing.assert_array_equal(again.graph.initializers[name].const_value, weights(2000))


@pytest.mark.parametrize("external_data", [False, True])
@pytest.mark.parametrize(
    "array",
    [
        np.asfortranarray(weights(6000).reshape(60, 100)),
        weights(6000).reshape(60, 100).T,
        weights(9000)[::2],
        np.arange(5000) % 2 == 0,
        weights(4000).astype(np.float16),
        weights(4000).astype(ml_dtypes.bfloat16),
        weights(4000).astype(ml_dtypes.float8_e4m3fn),
        (np.arange(4001) % 16 - 8).astype(ml_dtypes.int4),
        (np.arange(4001) % 4).astype(ml_dtypes.uint2),
        np.array([b"some", b"strings"] * 600, object),
        np.zeros((0, 5), np.float32),
        weights(4000).view(np.complex64),
    ],
    ids=lambda array: f"{array.dtype}-{array.shape}",
)
def test_arrays_of_any_type_and_layout_come_back(tmp_path, loaded, array, external_data):
    tensor = (
        ir.StringTensor(array) if array.dtype == object else ir.Tensor(array, name="other name")
    )
    loaded.graph.register_initializer(ir.Value(name="t", const_value=tensor))
    path, *_ = save_model(loaded, tmp_path / "m.onnx", external_data=external_data)
    again = load_model(path).graph.initializers["t"].const_value
    assert again.dtype == tensor.dtype
    assert again.numpy().shape == array.shape
    assert again.numpy().tolist() == array.tolist()
    reference = [t for t in onnx.load(path).graph.initializer if t.name == "t"]
    if array.dtype != object:
        assert numpy_helper.to_array(reference[0]).tobytes() == array.tobytes()


def test_model_that_onnx_ir_loaded_itself_is_saved_whole(tmp_path):
    path = external_model(tmp_path / "in")
    proto = onnx.load(path, load_external_data=False)
    constant = onnx.TensorProto()
    constant.CopyFrom(proto.graph.initializer[0])
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["k"], value=constant))
    path.write_bytes(proto.SerializeToString())
    (out,) = save_model(ir.load(path), tmp_path / "out.onnx")
    again = load_model(out)
    np.testing.assert_array_equal(again.graph.initializers["w"].const_value, weights(2000))
    np.testing.assert_array_equal(again.graph[0].attributes["value"].as_tensor(), weights(2000))


def test_model_over_the_limit_goes_to_external_data_by_itself(tmp_path, loaded, monkeypatch):
    monkeypatch.setattr(saving, "_LARGEST_FILE", 4000)
    assert len(save_model(loaded, tmp_path / "m.onnx")) == 2


def test_existing_permissions_are_kept_and_new_files_follow_the_umask(tmp_path, loaded):
    path = tmp_path / "m.onnx"
    save_model(loaded, path)
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()
    path.chmod(0o640)
    save_model(loaded, path)
    assert path.stat().st_mode & 0o777 == 0o640


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_models_of_the_onnx_package_load_and_save_with_the_same_graph(tmp_path):
    data = Path(onnx.__file__).parent / "backend" / "test" / "data"
    paths = sorted(data.rglob("*.onnx"))
    assert len(paths) > 50
    for path in paths:
        saved, *_ = save_model(load_model(path), tmp_path / "out.onnx")
        before, after = onnx.load(path).graph, onnx.load(saved).graph
        assert list(before.input) == list(after.input), path
        assert list(before.output) == list(after.output), path
        assert _structure(before) == _structure(after), path
        tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in after.initializer}
        for tensor in before.initializer:
            np.testing.assert_array_equal(numpy_helper.to_array(tensor), tensors[tensor.name])


def _structure(graph):
    return [
        (n.op_type, n.domain, list(n.input), list(n.output), {a.name: a.type for a in n.attribute})
        for n in graph.node
    ]


def _measure(tmp_path, script):
    """Runs a script in a process of its own; returns its peak memory in MB."""
    text = textwrap.dedent(script) + textwrap.dedent(
        """
        import re, pathlib
        status = pathlib.Path("/proc/self/status").read_text()
        print(int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) // 1024)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("count", "limit"), [(3, 160), pytest.param(17, 400, marks=pytest.mark.slow)]
)
def test_external_data_of_any_size_loads_scans_and_saves_in_bounded_memory(tmp_path, count, limit):
    """Tensors of 128 MB in a sparse file, which takes no space until it is copied."""
    size = 128 << 20
    proto = make_model()
    for index in range(count):
        tensor = proto.graph.initializer.add(name=f"t{index}", data_type=1, dims=[size // 4])
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", "data"), ("offset", index * size), ("length", size)):
            tensor.external_data.add(key=key, value=str(value))
    (tmp_path / "in.onnx").write_bytes(proto.SerializeToString())
    with (tmp_path / "data").open("wb") as file:
        file.truncate(count * size)
    start = time.monotonic()
    peak = _measure(
        tmp_path,
        """
        from onnxopt.graph.loading import load_model
        from onnxopt.graph.mapped import tensor_chunks
        from onnxopt.graph.saving import save_model
        model = load_model("in.onnx")
        for value in model.graph.initializers.values():
            assert value.name in "wb" or not any(c.any() for c in tensor_chunks(value.const_value))
        assert len(save_model(model, "out.onnx", external_data=EXTERNAL)) == 2
        assert load_model("out.onnx").graph.initializers["t2"].const_value.nbytes == 128 << 20
        """.replace("EXTERNAL", "None" if count > 16 else "True"),
    )
    print(f"peak {peak} MB, {time.monotonic() - start:.1f} s")
    assert (tmp_path / "out.onnx.data").stat().st_size > count * size
    for name in ("data", "out.onnx.data"):
        (tmp_path / name).unlink()
    assert peak < limit


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_weights_inside_the_model_are_not_held_in_memory(tmp_path):
    big = np.zeros(75 << 20, np.uint8).view(np.float32)  # 75 MB
    proto = make_model(initializers={"w": big})
    (tmp_path / "in.onnx").write_bytes(proto.SerializeToString())
    imports = "import onnx, onnxopt.graph.saving"
    script = """
        from onnxopt.graph.loading import load_model
        from onnxopt.graph.saving import save_model
        save_model(load_model("in.onnx"), "out.onnx")
        """
    assert _measure(tmp_path, script) - _measure(tmp_path, imports) < 40
