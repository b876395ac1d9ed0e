from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers.broken_models import FLOAT, make_model, refusal, weights
from onnx import helper, numpy_helper

from onnxopt.core.errors import InvalidModelError
from onnxopt.graph.loading import load_model

node = helper.make_node


def _load(tmp_path, model):
    path = tmp_path / "m.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return load_model(path)


def _refused(tmp_path, model, match):
    return refusal(lambda: _load(tmp_path, model), InvalidModelError, match)


def test_undefined_name_is_refused_with_the_node(tmp_path):
    model = make_model([node("Add", ["x", "nope"], ["y"], name="sum")])
    _refused(tmp_path, model, r"'sum' \(Add\) of the graph uses 'nope'")


def test_undefined_output_is_refused(tmp_path):
    _refused(
        tmp_path, make_model([node("Relu", ["x"], ["z"])]), "output 'y', which nothing defines"
    )


def test_cycle_is_refused_with_its_nodes(tmp_path):
    nodes = [
        node("Add", ["x", "c"], ["a"], name="one"),
        node("Relu", ["a"], ["b"], name="two"),
        node("Relu", ["b"], ["c"], name="three"),
        node("Relu", ["c"], ["y"], name="end"),
    ]
    message = _refused(tmp_path, make_model(nodes), "cycle of 3 nodes")
    assert all(name in message for name in ("one", "two", "three"))
    assert "end" not in message


def test_node_that_needs_itself_is_refused(tmp_path):
    _refused(tmp_path, make_model([node("Add", ["x", "y"], ["y"], name="n")]), "cycle of 1 nodes")


def test_cycle_through_a_subgraph_is_refused(tmp_path):
    inner = helper.make_graph(
        [node("Identity", ["late"], ["i"])], "b", [], [helper.make_tensor_value_info("i", 1, None)]
    )
    nodes = [
        node("Not", ["x"], ["flag"]),
        node("If", ["flag"], ["y"], name="if", then_branch=inner, else_branch=inner),
        node("Relu", ["y"], ["late"], name="late"),
    ]
    _refused(tmp_path, make_model(nodes), "cycle of 2 nodes")


def test_nodes_out_of_order_are_sorted(tmp_path):
    nodes = [
        node("Relu", ["b"], ["y"], name="last"),
        node("Relu", ["a"], ["b"], name="middle"),
        node("Relu", ["x"], ["a"], name="first"),
    ]
    model = _load(tmp_path, make_model(nodes))
    assert [n.name for n in model.graph] == ["first", "middle", "last"]


def test_inner_name_like_an_outer_one_is_no_cycle(tmp_path):
    inner = helper.make_graph(
        [node("Relu", ["x"], ["y"]), node("Relu", ["y"], ["z"])],
        "b",
        [],
        [helper.make_tensor_value_info("z", 1, None)],
    )
    nodes = [
        node("If", ["flag"], ["y"], name="if", then_branch=inner, else_branch=inner),
        node("Not", ["x"], ["flag"]),
    ]
    model = _load(tmp_path, make_model(nodes))
    assert [n.op_type for n in model.graph] == ["Not", "If"]


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Relu", ["x"], ["y"]), node("Relu", ["x"], ["y"])],
        [node("Split", ["x"], ["y", "y"])],
        [node("Relu", ["x"], ["x"]), node("Relu", ["x"], ["y"])],
    ],
)
def test_value_defined_twice_is_refused(tmp_path, nodes):
    _refused(tmp_path, make_model(nodes), "twice")


def test_initializer_defined_twice_is_refused(tmp_path):
    model = make_model()
    model.graph.initializer.add().CopyFrom(model.graph.initializer[0])
    _refused(tmp_path, model, "two initializers named 'w'")


def test_input_defined_twice_is_refused(tmp_path):
    _refused(tmp_path, make_model([node("Relu", ["x"], ["y"])], inputs=("x", "x")), "'x' twice")


def test_branch_that_returns_an_outer_value_is_refused_with_advice(tmp_path):
    inner = helper.make_graph([], "branch", [], [helper.make_tensor_value_info("x", 1, None)])
    nodes = [
        node("Not", ["x"], ["flag"]),
        node("If", ["flag"], ["y"], then_branch=inner, else_branch=inner),
    ]
    _refused(tmp_path, make_model(nodes), "put an Identity node")


def test_model_without_outputs_is_refused(tmp_path):
    _refused(tmp_path, make_model(outputs=()), "no outputs")


def test_missing_opset_is_refused(tmp_path):
    model = make_model()
    del model.opset_import[:]
    _refused(tmp_path, model, "opset_import")


def test_node_without_operator_is_refused(tmp_path):
    _refused(tmp_path, make_model([node("", ["x"], ["y"])]), "no operator")


def test_unknown_operator_and_domain_are_no_error(tmp_path):
    model = make_model([node("Mystery", ["x"], ["y"], domain="com.example", level=3)])
    assert _load(tmp_path, model).graph[0].domain == "com.example"


@pytest.mark.parametrize("where", ["name", "input", "op_type", "initializer"])
def test_invalid_utf8_in_names_is_refused(tmp_path, where):
    model = make_model(
        [node("ZZZZ" if where == "op_type" else "Add", ["x", "w"], ["y"], name="n")],
        initializers={"w": weights(3)},
    )
    if where == "name":
        model.graph.node[0].name = "ZZZZ"
    elif where == "input":
        model.graph.node[0].input[0] = "ZZZZ"
    elif where == "initializer":
        model.graph.initializer[0].name = "ZZZZ"
    data = model.SerializeToString().replace(b"ZZZZ", b"a\xff\xfeb")
    _refused(tmp_path, data, "UTF-8|nothing defines")


def test_invalid_utf8_in_documentation_is_no_error(tmp_path):
    model = make_model()
    model.graph.node[0].doc_string = "ZZZZ"
    loaded = _load(tmp_path, model.SerializeToString().replace(b"ZZZZ", b"a\xff\xfeb"))
    assert "\N{REPLACEMENT CHARACTER}" in loaded.graph[0].doc_string


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda a: setattr(a, "type", onnx.AttributeProto.INTS), "declared to hold 'ints'"),
        (lambda a: setattr(a, "type", onnx.AttributeProto.GRAPH), "declared to hold 'g'"),
        (lambda a: setattr(a, "f", 1.0), "holds 'f' and 'i'"),
        (lambda a: (a.ClearField("i"), setattr(a, "type", 4)), "holds nothing"),
        (lambda a: setattr(a, "ref_attr_name", "alpha"), "in none"),
        (lambda a: (a.ClearField("i"), a.ClearField("type")), "unknown type"),
    ],
)
def test_attribute_with_the_wrong_type_is_refused(tmp_path, change, match):
    model = make_model([node("Concat", ["x", "x"], ["y"], name="cat", axis=0)])
    change(model.graph.node[0].attribute[0])
    message = _refused(tmp_path, model, match)
    assert "'axis'" in message
    assert "'cat'" in message


def test_attribute_without_a_type_gets_that_of_its_value(tmp_path):
    model = make_model([node("Concat", ["x", "x"], ["y"], axis=0)])
    model.graph.node[0].attribute[0].ClearField("type")
    assert _load(tmp_path, model).graph[0].attributes["axis"].as_int() == 0


HUGE = 10**9


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: t.dims.__setitem__(0, 2001), "8004 bytes, but holds 8000"),
        (lambda t: t.dims.__setitem__(0, HUGE), "but holds 8000"),
        (lambda t: t.dims.extend([HUGE, HUGE]), "impossibly many"),
        (lambda t: t.dims.extend([0, HUGE, HUGE, HUGE]), "impossibly many"),
        (lambda t: t.dims.__setitem__(0, -1), "negative"),
        (lambda t: setattr(t, "data_type", 99), "unknown element type 99"),
        (lambda t: setattr(t, "data_type", 0), "unknown element type 0"),
        (lambda t: setattr(t, "data_type", onnx.TensorProto.STRING), "raw data"),
        (lambda t: setattr(t, "data_type", onnx.TensorProto.DOUBLE), "16000 bytes, but holds 8000"),
        (lambda t: t.ClearField("raw_data"), "holds no data"),
    ],
)
@pytest.mark.parametrize("place", ["initializer", "constant"])
def test_tensor_that_does_not_hold_what_it_declares_is_refused(tmp_path, change, match, place):
    model = make_model()
    tensor = model.graph.initializer[0]
    if place == "constant":
        model = make_model([node("Constant", [], ["y"], value=tensor)])
        tensor = model.graph.node[0].attribute[0].t
    change(tensor)
    _refused(tmp_path, model, match)


@pytest.mark.parametrize(
    ("field", "dtype", "count", "dims"),
    [
        ("float_data", FLOAT, 5, [HUGE, HUGE // 100]),
        ("float_data", FLOAT, 1000, [999]),
        ("float_data", onnx.TensorProto.INT64, 4, [4]),
        ("int64_data", FLOAT, 4, [4]),
        ("int32_data", onnx.TensorProto.INT4, 3, [3]),
        ("double_data", onnx.TensorProto.COMPLEX128, 3, [3]),
        ("string_data", onnx.TensorProto.STRING, 3, [HUGE]),
    ],
)
def test_typed_data_that_disagrees_is_refused(tmp_path, field, dtype, count, dims):
    model = make_model([node("Constant", [], ["y"], value=numpy_helper.from_array(weights(1)))])
    tensor = model.graph.initializer.add(name="t", data_type=dtype, dims=dims)
    getattr(tensor, field).extend([b"s"] * count if field == "string_data" else [1] * count)
    _refused(tmp_path, model, "'t' is declared as|'t' declares")


def test_output_of_an_unknown_type_is_refused(tmp_path):
    model = make_model()
    model.graph.output[0].type.tensor_type.elem_type = 99
    _refused(tmp_path, model, "'y' has the unknown element type 99")


def test_invalid_utf8_in_a_list_of_strings_is_refused(tmp_path):
    model = make_model([node("Mystery", ["x"], ["y"], name="n", words=["fine", b"a\xff"])])
    _refused(tmp_path, model, "'words' of node 'n'")


def _function(name, *nodes):
    return helper.make_function("f", name, ["a"], ["b"], list(nodes), [helper.make_opsetid("", 18)])


def test_functions_that_call_each_other_are_refused(tmp_path):
    one = _function("One", node("Two", ["a"], ["b"], domain="f"))
    two = _function("Two", node("One", ["a"], ["b"], domain="f"))
    model = make_model([node("One", ["x"], ["y"], domain="f")], functions=[one, two])
    _refused(tmp_path, model, "without end")


def test_function_that_uses_an_outer_value_is_refused(tmp_path):
    function = _function("F", node("Add", ["a", "w"], ["b"]))
    model = make_model(
        [node("F", ["x"], ["y"], domain="f")], initializers={"w": weights(1)}, functions=[function]
    )
    _refused(tmp_path, model, "function f::F uses 'w'")


def test_function_defined_twice_is_refused(tmp_path):
    function = _function("F", node("Relu", ["a"], ["b"]))
    model = make_model([node("F", ["x"], ["y"], domain="f")], functions=[function, function])
    _refused(tmp_path, model, "f::F is defined twice")


def test_sparse_tensor_with_indices_outside_is_refused(tmp_path):
    values = numpy_helper.from_array(np.ones(2, np.float32), "s")
    indices = numpy_helper.from_array(np.array([0, 12], np.int64), "i")
    model = make_model([node("Add", ["x", "s"], ["y"])])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [3, 4]))
    _refused(tmp_path, model, "indices outside")


def test_sparse_tensor_too_large_when_dense_is_refused(tmp_path):
    values = numpy_helper.from_array(np.ones(1, np.float32), "s")
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "i")
    model = make_model([node("Add", ["x", "s"], ["y"])])
    model.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, indices, [10**5, 10**5])
    )
    _refused(tmp_path, model, "too large")
