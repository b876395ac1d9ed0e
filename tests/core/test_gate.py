"""Gates: passes, rules and nodes that a run leaves alone; fences; snapshots."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import ClassVar

import onnx_ir as ir
import pytest
from helpers.planted import CancelPairs, DropTanh, layers
from helpers.rewriting import op_types, parse_model

from onnxopt.core.errors import PassFailedError
from onnxopt.core.fencing import fenced
from onnxopt.core.gate import Gate, Place
from onnxopt.core.passes import Pass, PassResult
from onnxopt.core.pipeline import Pipeline, Repeat
from onnxopt.core.snapshot import restore, snapshot
from onnxopt.passes.cleanup import RemoveIdentities, RemoveUnused


def test_places_are_noted_in_order_when_rewritten() -> None:
    gate = Gate()
    Pipeline([CancelPairs(), DropTanh(), RemoveIdentities()], gate=gate).call(layers(2))
    assert gate.taken == [
        Place("cancel-pairs", "double-transpose", "node_b0"),
        Place("cancel-pairs", "double-transpose", "node_b1"),
        Place("drop-tanh"),
        Place("remove-identities", "identity", "node_i0"),
        Place("remove-identities", "identity", "node_i1"),
    ]


@pytest.mark.parametrize(
    ("place", "left"),
    [
        (Place("cancel-pairs"), 4),
        (Place("cancel-pairs", "double-transpose"), 4),
        (Place("cancel-pairs", "double-transpose", "node_b1"), 2),
        (Place("cancel-pairs", "harmless-abs"), 0),
        (Place("cancel-pairs", "double-transpose", "node_b9"), 0),
    ],
)
def test_place_is_left_alone_when_blocked(place: Place, left: int) -> None:
    model = layers(2)
    Pipeline([Repeat((CancelPairs(),))], gate=Gate([place])).call(model)
    assert op_types(model).count("Transpose") == left


def test_pass_without_rules_skips_nodes_when_they_are_blocked() -> None:
    model = layers(3)
    Pipeline([DropTanh()], gate=Gate([Place("drop-tanh", "", "node_t1")])).call(model)
    assert [n.name for n in model.graph if n.op_type == "Tanh"] == ["node_t1"]
    assert not any(node.domain for node in model.graph)


def test_hidden_nodes_keep_their_opset_import_when_unused_ones_are_removed() -> None:
    model = parse_model(
        "g (float[N] x) => (float[N] y) { a = com.microsoft.Gelu(x) y = Identity(a) }"
    )
    model.graph[0].name = "gelu"
    with fenced(model, {"gelu"}):
        assert model.graph[0].domain != "com.microsoft"
        RemoveUnused()(model)
    assert model.graph[0].domain == "com.microsoft"
    assert "com.microsoft" in model.graph.opset_imports


def test_copy_of_a_hidden_node_comes_back_when_a_pass_made_one() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Replace(Pass):
        name: ClassVar[str] = "replace"

        def call(self, model: ir.Model) -> PassResult:
            restore(model, model.clone())
            return PassResult(model, Counter(copied=1))

    model = layers(1)
    Pipeline([Replace()], gate=Gate([Place("replace", "", "node_t0")])).call(model)
    assert not any(node.domain for node in model.graph)


def test_last_attempt_has_a_name_when_a_rule_raises() -> None:
    gate = Gate()
    passes = (CancelPairs(wrong_at=("t1",), raises=True), RemoveIdentities())
    pipeline = Pipeline([Repeat(passes)], gate=gate)
    with pytest.raises(PassFailedError) as caught:
        pipeline.call(layers(2))
    name = "cancel-pairs{wrong-at=t1,raises=true}"
    assert gate.attempting == (name, "double-transpose", "node_b1")
    assert caught.value.passes == (name, "remove-identities")
    assert caught.value.reason == "KeyError: 'boom'"


def test_model_is_what_it_was_and_shares_its_weights_when_restored() -> None:
    model = layers(2)
    model.metadata_props["made by"] = "a test"
    weight = model.graph.initializers["w"].const_value
    before = op_types(model)
    copy = snapshot(model)
    DropTanh()(model)
    model.metadata_props.clear()
    restore(model, copy)
    assert op_types(model) == before
    assert model.graph.initializers["w"].const_value is weight
    assert model.metadata_props == {"made by": "a test"}
