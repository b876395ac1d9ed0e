"""Nodes that their operator does not allow are refused when a model is read, by name."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from helpers.broken_models import make_model
from onnx import AttributeProto, helper

from onnxopt.core.errors import InvalidModelError
from onnxopt.graph.loading import load_model


def _load(folder: Path, *nodes: onnx.NodeProto, opset: int = 18) -> None:
    model = make_model(list(nodes))
    model.opset_import[0].version = opset
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    load_model(folder / "m.onnx")


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (helper.make_node("Conv", ["x"], ["y"], name="c"), "'c' .Conv. of the graph has 1 inputs"),
        (helper.make_node("Relu", ["x", "x"], ["y"]), "2 inputs; Relu of opset 18 has 1"),
        (helper.make_node("Concat", [], ["y"], axis=0), "Concat of opset 18 has 1 or more"),
        (helper.make_node("Relu", ["x"], ["y", "z"]), "has 2 outputs"),
        (helper.make_node("Concat", ["x"], ["y"]), "lacks the attribute axis"),
        (helper.make_node("Cast", ["x"], ["y"], to="float"), "as STRING; Cast takes INT"),
        (helper.make_node("Constant", [], ["y"]), "has not one value"),
        (helper.make_node("Constant", [], ["y"], value_int=1, value_float=1.0), "not one value"),
    ],
)
def test_node_is_refused_when_its_operator_does_not_allow_it(
    tmp_path: Path, node: onnx.NodeProto, message: str
) -> None:
    with pytest.raises(InvalidModelError, match=message):
        _load(tmp_path, node)


@pytest.mark.parametrize(
    ("node", "opset"),
    [
        # Attributes that became inputs, and the other way round, by version.
        (helper.make_node("Squeeze", ["x"], ["y"], axes=[0]), 11),
        (helper.make_node("Dropout", ["x"], ["y"], ratio=0.5), 10),
        # What exporters leave behind.
        (helper.make_node("Relu", ["x"], ["y"], consumed=[1]), 18),
        (helper.make_node("Resize", ["x", "", "x"], ["y"]), 11),
        (helper.make_node("Relu", ["x", ""], ["y"]), 18),
        # Unknown to onnx: nothing is known of it.
        (helper.make_node("Frobnicate", ["x"] * 9, ["y"]), 18),
    ],
)
def test_node_is_read_when_it_is_usual(tmp_path: Path, node: onnx.NodeProto, opset: int) -> None:
    _load(tmp_path, node, opset=opset)


def test_body_of_a_function_is_checked_by_its_own_version(tmp_path: Path) -> None:
    node = helper.make_node("Squeeze", ["p"], ["r"], axes=[0])
    function = helper.make_function("f", "F", ["p"], ["r"], [node], [helper.make_opsetid("", 11)])
    model = make_model([helper.make_node("F", ["x"], ["y"], domain="f")], functions=[function])
    model.opset_import.append(helper.make_opsetid("f", 1))
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    load_model(path)
    function.node[0].ClearField("input")
    model = make_model([helper.make_node("F", ["x"], ["y"], domain="f")], functions=[function])
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InvalidModelError, match=r"function f::F has 0 inputs"):
        load_model(path)


def test_attribute_is_read_when_it_refers_to_one_of_a_function(tmp_path: Path) -> None:
    node = helper.make_node("Concat", ["p"], ["r"], axis=0)
    node.attribute[0].CopyFrom(AttributeProto(name="axis", type=2, ref_attr_name="axis"))
    function = helper.make_function(
        "f", "F", ["p"], ["r"], [node], [helper.make_opsetid("", 18)], attributes=["axis"]
    )
    call = helper.make_node("F", ["x"], ["y"], domain="f", axis=0)
    model = make_model([call], functions=[function])
    model.opset_import.append(helper.make_opsetid("f", 1))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    load_model(tmp_path / "m.onnx")
