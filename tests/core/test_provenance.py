"""Where rewritten nodes come from, and that it survives saving."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx.parser
import onnx.shape_inference
import onnx_ir as ir
import onnxruntime
import pytest

from onnxopt.core.pipeline import Pipeline
from onnxopt.core.provenance import FROM_KEY, RULE_KEY, record_rewrite, rules_of, sources_of
from onnxopt.graph.saving import save_model
from onnxopt.passes.cleanup import (
    EliminateCommonSubexpressions,
    MergeTransposes,
    PushTransposes,
)
from onnxopt.passes.fusion import MergeClips

CHAIN = """
<ir_version: 7, opset_import: ["" : 13]>
g (float[N, 2, 3] x) => (float[2, 3, N] y) {
    [first] a = Transpose <perm = [1, 0, 2]> (x)
    [second] b = Transpose <perm = [2, 1, 0]> (a)
    [third] c = Transpose <perm = [0, 2, 1]> (b)
    [last] d = Neg(c)
    [back] y = Transpose <perm = [1, 0, 2]> (d)
}
"""


@pytest.fixture
def model() -> ir.Model:
    model = ir.from_proto(onnx.parser.parse_model(CHAIN))
    for node, name in zip(model.graph, ("first", "second", "third", "last", "back"), strict=True):
        node.name = name
    return model


def test_output_keeps_its_name_when_rewritten(model: ir.Model) -> None:
    Pipeline([MergeTransposes()])(model)
    merged = next(node for node in model.graph if node.op_type == "Transpose")
    assert merged.outputs[0].name == "c"


def test_sources_are_merged_when_rewritten_twice(model: ir.Model) -> None:
    Pipeline([MergeTransposes()])(model)
    merged = next(node for node in model.graph if node.op_type == "Transpose")
    assert sources_of(merged) == ["first", "second", "third"]
    assert rules_of(merged) == ["transpose-pair"]
    untouched = next(node for node in model.graph if node.op_type == "Neg")
    assert (sources_of(untouched), rules_of(untouched)) == (["last"], [])


def test_provenance_survives_saving_when_ir_version_is_old(model: ir.Model, tmp_path: Path) -> None:
    """ONNX Runtime reads node metadata although IR version 7 does not know it."""
    Pipeline([MergeTransposes()])(model)
    path = tmp_path / "model.onnx"
    save_model(model, path)
    onnxruntime.InferenceSession(path)
    onnx.checker.check_model(path, full_check=True)
    saved = ir.load(path)
    merged = next(node for node in saved.graph if node.op_type == "Transpose")
    assert saved.ir_version == 7
    assert merged.metadata_props[RULE_KEY] == "transpose-pair"
    assert merged.metadata_props[FROM_KEY] == "first, second, third"


def test_sources_stay_short_when_many_nodes_are_merged() -> None:
    removed = [ir.Node("", "Neg", [], name=f"node{index}" * 50) for index in range(100)]
    new = ir.Node("", "Neg", [])
    for rule in "abcdefghij":
        record_rewrite([new], rule, [*removed, new])
    assert len(new.metadata_props[FROM_KEY]) < 1500
    assert rules_of(new) == ["...", "f", "g", "h", "i", "j"]


def test_nothing_is_recorded_when_nothing_is_rewritten(model: ir.Model) -> None:
    Pipeline([MergeClips()])(model)
    assert not any(node.metadata_props for node in model.graph)


def test_passes_without_rules_record_where_nodes_come_from() -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 18]>
        g (float[2, 3, 4] x) => (float[2, 3, 4] y, float[2, 3, 4] z) {
            t = Transpose <perm = [0, 2, 1]> (x)
            r = Relu(t)
            y = Transpose <perm = [0, 2, 1]> (r)
            e = Exp(x)
            f = Exp(x)
            z = Add(e, f)
        }"""
    )
    for node in proto.graph.node:
        node.name = f"node_{node.output[0]}"
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    Pipeline([PushTransposes(), EliminateCommonSubexpressions()])(model)
    relu, exp = (next(n for n in model.graph if n.op_type == op) for op in ("Relu", "Exp"))
    assert (rules_of(relu), sources_of(relu)) == (["push-transposes"], ["node_r"])
    assert sources_of(exp) == ["node_e", "node_f"]
