from __future__ import annotations

import gc
import logging

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from helpers.broken_models import external_model, make_model, weights
from onnx import helper, numpy_helper

from onnxopt.graph.loading import load_model
from onnxopt.graph.mapped import MappedTensor
from onnxopt.graph.saving import save_model

node = helper.make_node


def _load(tmp_path, model):
    path = tmp_path / "m.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return load_model(path)


def test_large_weights_stay_in_the_file_and_small_ones_do_not(tmp_path):
    model = _load(tmp_path, make_model())
    large, small = (model.graph.initializers[name].const_value for name in ("w", "b"))
    assert isinstance(large, MappedTensor)
    assert not isinstance(small, MappedTensor)
    np.testing.assert_array_equal(large.numpy(), weights(2000))
    np.testing.assert_array_equal(small.numpy(), weights(1))
    assert (large.name, large.dtype, large.nbytes) == ("w", ir.DataType.FLOAT, 8000)


def test_every_uncut_field_is_as_protobuf_reads_it(tmp_path):
    proto = make_model()
    proto.producer_name = "me"
    proto.metadata_props.add(key="k", value="v")
    proto.graph.doc_string = "documentation"
    proto.graph.initializer[0].doc_string = "weight"
    expected = ir.from_proto(onnx.ModelProto.FromString(proto.SerializeToString()))
    loaded = _load(tmp_path, proto)
    assert ir.to_proto(loaded) == ir.to_proto(expected)


@pytest.mark.parametrize("field", ["float_data", "double_data"])
def test_packed_numbers_are_the_same_bytes_as_raw_data(tmp_path, field):
    kind = np.float32 if field == "float_data" else np.float64
    array = weights(1500).astype(kind)
    model = make_model()
    dtype = helper.np_dtype_to_tensor_dtype(array.dtype)
    tensor = model.graph.initializer.add(name="t", data_type=dtype, dims=[3, 500])
    getattr(tensor, field).extend(array)
    loaded = _load(tmp_path, model).graph.initializers["t"].const_value
    assert isinstance(loaded, MappedTensor)
    np.testing.assert_array_equal(loaded.numpy(), array.reshape(3, 500))


def test_graph_in_two_fields_is_merged_as_protobuf_does(tmp_path):
    proto = make_model()
    second = onnx.ModelProto()
    second.graph.initializer.append(numpy_helper.from_array(weights(900, 5), "extra"))
    model = _load(tmp_path, proto.SerializeToString() + second.SerializeToString())
    np.testing.assert_array_equal(
        model.graph.initializers["extra"].const_value.numpy(), weights(900, 5)
    )


def test_unknown_fields_are_skipped(tmp_path):
    unknown = b"\xfa\x7f\x03abc"  # field 2047
    model = _load(tmp_path, make_model().SerializeToString() + unknown)
    assert len(model.graph) == 3


def test_initializer_that_is_also_an_input_stays_both(tmp_path):
    proto = make_model()
    proto.ir_version = 3
    for name in ("w", "b"):
        proto.graph.input.append(helper.make_tensor_value_info(name, 1, ["n"]))
    value = _load(tmp_path, proto).graph.initializers["w"]
    assert value.is_graph_input()
    assert isinstance(value.const_value, MappedTensor)


def test_model_of_the_first_days_gets_versions(tmp_path):
    proto = make_model([node("Relu", ["x"], ["y"])])
    proto.ir_version = 1
    del proto.opset_import[:]
    model = _load(tmp_path, proto)
    assert (model.ir_version, model.opset_imports) == (3, {"": 1})


def test_model_without_ir_version_gets_one_that_allows_its_initializers(tmp_path):
    proto = make_model()
    proto.ClearField("ir_version")
    assert _load(tmp_path, proto).ir_version == 4


def test_both_names_of_the_default_domain_become_one(tmp_path):
    proto = make_model()
    proto.opset_import[0].domain = "ai.onnx"
    assert _load(tmp_path, proto).opset_imports == {"": 18}


def test_empty_optional_names_are_kept(tmp_path):
    proto = make_model([node("Clip", ["x", "", "b"], ["y"])], initializers={"b": weights(1)})
    assert _load(tmp_path, proto).graph[0].inputs[1] is None


def test_sparse_initializer_and_constant_become_dense(tmp_path):
    values = numpy_helper.from_array(np.array([1, 2], np.float32), "s")
    flat = numpy_helper.from_array(np.array([1, 5], np.int64), "i")
    pairs = numpy_helper.from_array(np.array([[0, 1], [1, 2]], np.int64), "i")
    constant = node("Constant", [], ["k"])
    constant.attribute.append(
        helper.make_attribute("sparse_value", helper.make_sparse_tensor(values, pairs, [2, 3]))
    )
    proto = make_model([constant, node("Add", ["k", "s"], ["y"])])
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, flat, [2, 3]))
    model = _load(tmp_path, proto)
    expected = np.array([[0, 1, 0], [0, 0, 2]], np.float32)
    for tensor in (
        model.graph.initializers["s"].const_value,
        model.graph[0].attributes["value"].as_tensor(),
    ):
        np.testing.assert_array_equal(tensor.numpy(), expected)


def test_map_typed_output_survives_load_and_save(tmp_path):
    proto = make_model([node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0])])
    of_map = helper.make_map_type_proto(7, helper.make_tensor_type_proto(1, []))
    proto.graph.output[0].type.CopyFrom(helper.make_sequence_type_proto(of_map))
    model = _load(tmp_path, proto).clone()
    saved, *_ = save_model(model, tmp_path / "out.onnx")
    assert onnx.load(saved).graph.output[0] == proto.graph.output[0]


def test_training_information_is_left_out_with_a_warning(tmp_path, caplog):
    proto = make_model()
    proto.training_info.add()
    with caplog.at_level(logging.WARNING):
        _load(tmp_path, proto)
    assert "training" in caplog.text


@pytest.mark.filterwarnings("ignore:The onnxtxt format is experimental")
@pytest.mark.parametrize("suffix", [".json", ".textproto", ".onnxtxt"])
def test_text_formats_load_by_suffix(tmp_path, suffix):
    path = tmp_path / f"m{suffix}"
    onnx.save(make_model([node("Relu", ["x"], ["y"])]), path)
    assert [n.op_type for n in load_model(path).graph] == ["Relu"]


def test_four_hundred_data_files_do_not_exhaust_file_descriptors(tmp_path):
    import resource

    proto = make_model()
    size = (1 << 20) + 4
    for index in range(400):
        with (tmp_path / f"{index}.bin").open("wb") as file:
            file.truncate(size)  # sparse
        tensor = proto.graph.initializer.add(name=f"t{index}", data_type=1, dims=[size // 4])
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=f"{index}.bin")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (350, hard))
    try:
        model = _load(tmp_path, proto)
        for index in (0, 399):
            assert not model.graph.initializers[f"t{index}"].const_value.numpy()[-1]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_garbage_collection_is_on_again_after_a_refusal(tmp_path):
    from onnxopt.core.errors import InvalidModelError

    with pytest.raises(InvalidModelError):
        _load(tmp_path, b"\x00")
    assert gc.isenabled()


def test_nothing_in_the_folder_changes(tmp_path):
    path = external_model(tmp_path)
    before = {
        file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in tmp_path.iterdir()
    }
    model = load_model(path)
    model.graph.initializers["w"].const_value.tobytes()
    after = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in tmp_path.iterdir()}
    assert before == after
