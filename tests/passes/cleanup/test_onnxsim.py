"""The onnxsim adapter: what its child process does to us. The child is replaced, not onnxsim."""

from __future__ import annotations

import importlib.machinery
import importlib.util

import pytest
from helpers.rewriting import assert_refuses, op_types, parse_model

from onnxopt.core.errors import MissingDependencyError
from onnxopt.passes.cleanup import onnxsim as adapter
from onnxopt.passes.cleanup.onnxsim import SimplifyWithOnnxsim

MODEL = "g (float[N] x) => (float[N] y) { a = Identity(x) y = Relu(a) }"
# Stands for onnxsim in the child: removes the Identity.
WORKING = """
import sys, onnx
model = onnx.load(sys.argv[1])
model.graph.node[1].input[0] = "x"
del model.graph.node[0]
onnx.save(model, sys.argv[2])
"""
RENAMING = """
import sys, onnx
model = onnx.load(sys.argv[1])
model.graph.node[1].output[0] = model.graph.output[0].name = "z"
onnx.save(model, sys.argv[2])
"""


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.machinery.ModuleSpec("onnxsim", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)


def test_graph_is_replaced_in_place_when_the_child_simplifies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(adapter, "_CHILD", WORKING)
    model = parse_model(MODEL)
    result = SimplifyWithOnnxsim()(model)
    assert result.modified
    assert op_types(model) == ["Relu"]
    assert str(model.graph.outputs[0].shape) == "[N]"


@pytest.mark.parametrize(
    ("child", "reason"),
    [
        ("import os; os.abort()", "crashed (signal 6)"),
        ("raise SystemExit('no idea')", "it failed: no idea"),
        ("import time; time.sleep(60)", "took more than 1 s"),
        ("import sys; open(sys.argv[2], 'w').write('junk')", "cannot be read"),
        (RENAMING, "changed the outputs"),
    ],
)
def test_model_stays_and_reason_is_given_when_the_child_fails(
    monkeypatch: pytest.MonkeyPatch, child: str, reason: str
) -> None:
    monkeypatch.setattr(adapter, "_CHILD", child)
    assert_refuses(
        SimplifyWithOnnxsim(timeout=1 if "sleep" in child else 60), parse_model(MODEL), reason
    )


def test_message_names_the_extra_when_onnxsim_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"onnxopt\[onnxsim\]"):
        SimplifyWithOnnxsim()(parse_model(MODEL))
