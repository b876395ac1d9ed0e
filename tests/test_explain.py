"""What `explain` says of fusions that did not happen, and its requirements."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from click.testing import CliRunner
from helpers.attention import Spelling, attention_model

from onnxopt.cli.group import cli
from onnxopt.core.errors import InvalidInputError
from onnxopt.expected_fusions import near_misses
from onnxopt.explaining import explain

# The variance is summed up instead of averaged: an exporter's new spelling.
NORM = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 4] x) => (float[N, 4] y)
<float e = {0.00001}, float two = {2}> {
    mean = ReduceMean <axes = [-1]> (x)
    d = Sub(x, mean)
    square = Pow(d, two)
    variance = REDUCE <axes = [-1]> (square)
    sum = Add(variance, e)
    root = Sqrt(sum)
    y = Div(d, root)
}
"""
GELU = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 4] x) => (float[N, 4] y)
<float root = {ROOT}, float one = {1}, float half = {0.5}> {
    q = Div(x, root)
    e = Erf(q)
    s = Add(e, one)
    p = Mul(x, s)
    y = Mul(p, FACTOR)
}
"""


def _model(text: str) -> ir.Model:
    model = ir.from_proto(onnx.parser.parse_model(text))
    for node in model.graph:
        node.name = node.outputs[0].name
    return model


def test_nearest_miss_names_the_node_when_a_normalization_is_spelled_anew() -> None:
    found = explain(_model(NORM.replace("REDUCE", "ReduceMax")))
    (miss,) = found.misses
    assert miss.pass_name == "fuse-layer-norm"
    assert (miss.node, miss.place) == ("y", "variance")
    assert miss.reason == "ReduceMax is not ReduceMean or GlobalAveragePool"
    assert miss.matched == 5
    assert "nearest miss" in found.to_text()


def test_nothing_is_missed_when_it_is_fused() -> None:
    found = explain(_model(NORM.replace("REDUCE", "ReduceMean")))
    assert not found.misses
    assert found.operators["LayerNormalization"] == 1


def test_nearest_miss_gives_the_number_when_a_constant_is_off() -> None:
    text = GELU.replace("FACTOR", "half").replace("ROOT", "1.4142135").replace("{1}", "{2}")
    (miss,) = near_misses(_model(text))
    assert miss.pass_name == "fuse-gelu"
    assert miss.reason == "'one' is 2, not 1"


def test_nearest_miss_names_the_value_when_it_is_no_constant() -> None:
    text = GELU.replace("FACTOR", "x").replace("ROOT", "1.4142135")
    (miss,) = near_misses(_model(text))
    assert miss.reason == "'x' is not a constant"


def test_refusals_are_told_when_a_rewrite_is_refused() -> None:
    text = GELU.replace("FACTOR", "half").replace("ROOT", "1.4142135")
    assert "needs opset 20" in explain(_model(text)).to_text()
    assert explain(_model(text), opset=20).operators["Gelu"] == 1


@pytest.mark.parametrize(
    ("requirement", "unmet"),
    [
        ("LayerNormalization=1", ()),
        ("fuse-layer-norm=1", ()),
        ("layer-norm-div=1", ()),
        ("LayerNormalization=2", ("LayerNormalization: 1, required 2",)),
        ("fuse-gelu=1", ("fuse-gelu: 0, required 1",)),
    ],
)
def test_requirement_is_checked_when_given(requirement: str, unmet: tuple[str, ...]) -> None:
    found = explain(_model(NORM.replace("REDUCE", "ReduceMean")), require=[requirement])
    assert found.unmet == unmet
    assert found.exit_code == (3 if unmet else 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [("fuse-gelu", "write NAME=COUNT"), ("fuse-gelo=1", "did you mean fuse-gelu")],
)
def test_requirement_is_refused_in_one_line_when_it_is_wrong(text: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        explain(_model(NORM.replace("REDUCE", "ReduceMean")), require=[text])


def test_command_exits_with_three_when_a_requirement_is_not_met(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    ir.save(_model(NORM.replace("REDUCE", "ReduceMax")), path)
    result = CliRunner().invoke(cli, ["explain", str(path), "--require", "LayerNormalization=1"])
    assert result.exit_code == 3
    assert result.stdout.splitlines()[-1] == "not met: LayerNormalization: 0, required 1"
    data = json.loads(CliRunner().invoke(cli, ["explain", str(path), "--json"]).stdout)
    assert data["near_misses"][0]["place"] == "variance"
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_nearest_miss_of_attention_names_the_node_that_is_unlike() -> None:
    spelling = Spelling(mask="added")
    assert not explain(attention_model(spelling), target="cuda").misses
    model = attention_model(spelling)
    _insert(model, "Softmax", "Sigmoid")
    (miss,) = explain(model, target="cuda").misses
    assert miss.pass_name == "fuse-attention"
    assert miss.reason == "the probabilities pass through Sigmoid"
    assert miss.matched == miss.size - 1
    assert "nearest miss 1 x" in explain(model, target="cuda").to_text()
    assert not explain(model, target="cpu").misses, "there is no fused attention on the CPU"


def test_attention_that_is_refused_is_told_once() -> None:
    model = attention_model(Spelling(mask="added"))
    _insert(model, "Add", "Relu")
    found = explain(model, target="cuda")
    assert not found.misses
    assert "the scores pass through Relu" in found.to_text()


def test_softmax_over_another_axis_is_a_near_miss() -> None:
    model = attention_model(Spelling())
    softmax = next(node for node in model.graph if node.op_type == "Softmax")
    softmax.attributes["axis"] = ir.AttrInt64("axis", -2)
    (miss,) = explain(model, target="cuda").misses
    assert miss.reason == "the Softmax is not over the keys, the last axis"


def _insert(model: ir.Model, behind: str, op_type: str) -> None:
    """Puts a node between the last one of a type and its users."""
    node = [node for node in model.graph if node.op_type == behind][-1]
    value = node.outputs[0]
    users = list(value.uses())
    new = ir.node(op_type, [value])
    new.outputs[0].type, new.outputs[0].shape = value.type, value.shape
    model.graph.insert_after(node, new)
    for user, index in users:
        user.replace_input_with(index, new.outputs[0])
