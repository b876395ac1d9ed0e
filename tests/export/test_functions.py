"""Modules of the user's own: names, dynamic axes, parity, tied weights, nothing half-written."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import onnxopt
from onnxopt.core.errors import InvalidInputError, OnnxOptError
from onnxopt.export.checking import Checker
from onnxopt.runtime.session import open_session

torch = pytest.importorskip("torch")

HEAD = "import torch\nfrom torch import nn\ntorch.manual_seed(0)\n"
TIED = """
class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(50, 16)
        self.head = nn.Linear(16, 50, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids, scale):
        return {"scores": self.head(self.table(ids)) * scale, "copy": (ids, scale)}

def make():
    ids = torch.randint(0, 50, (2, 6))
    return Tied(), {"ids": ids, "scale": torch.rand(2, 1, 1)}, {
        "ids": {0: "batch", 1: "sequence"}, "scale": {0: "batch"}}
"""


def write(folder: Path, body: str) -> str:
    (folder / "net.py").write_text(HEAD + body)
    return f"{folder / 'net.py'}:make"


def test_first_export_is_kept_and_checked_from_its_file_when_weights_are_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By its module: `onnxopt.export` is a function, lazily bound over the package of that name.
    monkeypatch.setattr(sys.modules[Checker.__module__], "LARGE_BYTES", 0)
    source = write(tmp_path, TIED.replace('"copy": (ids, scale)', '"twice": (scale * 2,)'))
    (file,) = onnxopt.export(source, tmp_path / "out").files
    kept, *others = file.candidates
    assert kept["kept"]
    assert kept["parity"]
    assert file.largest_error < 1e-5
    assert all("not tried" in other["rejected"] for other in others)


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_module_with_tied_weights_is_exported_dynamic(tmp_path: Path, exporter: str) -> None:
    source = write(tmp_path, TIED.replace('"copy": (ids, scale)', '"twice": (scale * 2,)'))
    result = onnxopt.export(source, tmp_path / "out", exporter=exporter)
    (file,) = result.files
    assert file.exporter == exporter
    assert file.inputs == {"ids": ["batch", "sequence"], "scale": ["batch", 1, 1]}
    assert file.outputs["scores"] == ["batch", "sequence", 50]
    assert len(file.checked) >= 2
    assert file.largest_error < 1e-5
    model = onnxopt.load(tmp_path / "out" / "model.onnx")
    large = [v for v in model.graph.initializers.values() if v.const_value.size >= 800]
    assert len(large) == 1
    assert str(model.graph.inputs[0].shape) == "[batch,sequence]"
    session = open_session(tmp_path / "out" / "model.onnx")
    ids = np.arange(15).reshape(5, 3)
    scores = session.run({"ids": ids, "scale": np.ones((5, 1, 1), np.float32)})["scores"]
    assert scores.shape == (5, 3, 50)
    record = json.loads((tmp_path / "out" / "export.json").read_text())
    assert record["versions"]["torch"] == torch.__version__
    assert record["files"][0]["parity"]["scores"]["relative_error"] < 1e-5


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_weights_are_written_in_the_order_that_they_are_read(
    tmp_path: Path, exporter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    name = "_jit_pass_onnx_graph_shape_type_inference"
    original = getattr(torch._C, name)
    monkeypatch.setattr(torch._C, name, lambda *a: (seen.append(a[1]), original(*a))[1])
    body = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lines = nn.Sequential(nn.Linear(96, 200, bias=False), nn.Linear(200, 5, bias=False))
    def forward(self, x):
        return self.lines(x)
def make(): return Net(), torch.rand(2, 3, 96)
"""
    result = onnxopt.export(write(tmp_path, body), tmp_path / "out", exporter=exporter)
    assert result.files[0].largest_error < 1e-5
    model = onnxopt.load(tmp_path / "out" / "model.onnx")
    assert [node.op_type for node in model.graph] == ["MatMul", "MatMul"]
    shapes = [list(node.inputs[1].const_value.shape) for node in model.graph]
    assert shapes == [[96, 200], [200, 5]]
    if exporter == "torchscript":  # 200 * 96 floats are a weight, 5 * 200 could be a shape
        assert seen
        assert all(list(weights) == ["module.lines.1.weight"] for weights in seen)


def test_module_that_draws_random_numbers_is_told(tmp_path: Path) -> None:
    body = """
class Net(nn.Module):
    def forward(self, x): return x + torch.rand_like(x)
def make(): return Net(), torch.rand(2, 3)
"""
    result = onnxopt.export(write(tmp_path, body), tmp_path / "out", exporter="torchscript")
    assert "does not repeat 'output'" in result.notes[0]


def test_decision_by_values_is_told_when_it_is_traced(tmp_path: Path) -> None:
    body = """
class Net(nn.Module):
    def forward(self, x): return x * 2 if x.sum() > 0 else x - 1
def make(): return Net(), torch.rand(2, 3)
"""
    result = onnxopt.export(write(tmp_path, body), tmp_path / "out")
    assert result.files[0].exporter == "torchscript"
    assert "decides by values" in result.notes[0]


def test_batch_is_guessed_and_refuted_by_pytorch(tmp_path: Path) -> None:
    body = "def make(): return nn.Linear(4, 3), torch.rand(2, 4)\n"
    result = onnxopt.export(write(tmp_path, body), tmp_path / "a", exporter="torchscript")
    assert result.files[0].inputs == {"input": ["batch", 4]}
    body = """
class Net(nn.Module):
    def forward(self, x):
        return x @ torch.ones(5, 2)
def make(): return Net(), torch.rand(5, 5)[:5]
"""
    body = body.replace("x @ torch.ones(5, 2)", "torch.ones(2, 5) @ x")
    result = onnxopt.export(write(tmp_path, body), tmp_path / "b", exporter="torchscript")
    assert result.files[0].inputs == {"x": [5, 5]}
    assert "fixed" in result.notes[0]


def test_wrong_export_is_found_and_nothing_is_written(tmp_path: Path) -> None:
    # A trace bakes in what the loop does at the size that it was traced at.
    body = """
class Net(nn.Module):
    def forward(self, x):
        for row in range(int(x.shape[0])):
            x = x + row
        return x
def make(): return Net(), torch.rand(3, 4), {"x": {0: "batch"}}
"""
    with pytest.raises(OnnxOptError, match=r"torchscript: output: .*error") as error:
        onnxopt.export(write(tmp_path, body), tmp_path / "out", exporter="torchscript")
    assert "\n" not in str(error.value)
    left = {path.name for path in tmp_path.iterdir()} - {"__pycache__"}
    assert left == {"net.py", "out.export.log"}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("def make(): raise RuntimeError('no weights here')", "failed: RuntimeError: no weights"),
        ("def make(): return nn.Linear(2, 2)", "has to return"),
        ("def make(): return 1, torch.ones(2)", "the first one is a int"),
        ("def make(): return nn.Linear(2, 2), 'x'", "inputs are tensors"),
        ("def make(): return nn.Linear(2, 2), torch.ones(3, 3)", "fails on its example"),
        (
            "def make(): return nn.ReLU(), torch.ones(3), {'y': {0: 'n'}}",
            "dynamic axes name 'y'",
        ),
        ("def other(): pass", "no function 'make'"),
        ("import sys\ndef make(): sys.exit(3)", "failed: SystemExit: 3"),
        ("class Odd(Exception): pass\ndef make(): raise Odd('one\\ntwo')", "Odd: one two"),
        (
            "class Odd(Exception): pass\nclass Net(nn.Module):\n"
            "    def forward(self, x): raise Odd('one\\ntwo')\n"
            "def make(): return Net(), torch.ones(2)",
            "example inputs: Odd: one two",
        ),
        (
            "class Net(nn.Module):\n    def forward(self, x): return ()\n"
            "def make(): return Net(), torch.ones(2)",
            "returns no tensor",
        ),
        ("def make(: pass", "cannot import"),
    ],
)
def test_bad_function_is_one_line(tmp_path: Path, body: str, reason: str) -> None:
    with pytest.raises(InvalidInputError, match=reason) as error:
        onnxopt.export(write(tmp_path, body), tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()
