"""Quantized PyTorch modules: integer kernels, parity with roundings, fake quantization."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import onnxopt
from onnxopt.core.errors import InvalidInputError
from onnxopt.export.checking import Checker
from onnxopt.export.exporters import Job
from onnxopt.export.functions import load_function
from onnxopt.export.quantized import fit_integer_kernels
from onnxopt.export.references import own_noise, run_references

torch = pytest.importorskip("torch")

HEAD = """
import torch
from torch import nn
import torch.ao.quantization as ao

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8 * 36, 5)
        self.quant, self.dequant = ao.QuantStub(), ao.DeQuantStub()

    def forward(self, x):
        x = torch.relu(self.second(torch.relu(self.first(self.quant(x)))))
        return self.dequant(self.head(x.flatten(1)))

torch.manual_seed(0)
IMAGES = torch.rand(4, 3, 6, 6)
"""
PT2E = """
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

def make():
    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(Net().eval(), (IMAGES,), dynamic_shapes=dynamic)
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(program.module(), quantizer)
    prepared(IMAGES)
    return convert_pt2e(prepared), IMAGES
"""
EAGER = """
def make():
    net = Net().train()
    net.qconfig = ao.get_default_qat_qconfig("x86")
    prepared = ao.prepare_qat(net)
    prepared(IMAGES)
    return prepared, IMAGES
"""


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def write(folder: Path, body: str) -> str:
    (folder / "net.py").write_text(HEAD + body)
    return f"{folder / 'net.py'}:make"


def test_pt2e_module_runs_on_integers_at_parity(tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    result = onnxopt.export(write(tmp_path, PT2E), tmp_path / "out", exporter="dynamo")
    (file,) = result.files
    assert file.inputs == {"x": ["batch", 3, 6, 6]}
    assert file.layers is not None
    assert file.layers.integer.total() == 3
    assert not file.layers.floating
    assert "3 of 3 layers run on integers" in result.to_text()
    assert result.to_dict()["files"][0]["layers"]["float"] == []


def test_wrong_zero_point_is_no_rounding(tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    from onnxopt.export.dynamo import DynamoExporter

    (part,) = load_function(write(tmp_path, PT2E)).parts
    part, runs, _ = run_references(part)
    checker = Checker(part, runs, 0)
    model = DynamoExporter().export(Job(18, tmp_path), part)
    fit_integer_kernels(model)
    assert own_noise(part, runs).quantized
    complaint, _ = checker.check(model)
    assert not complaint
    quantizer = next(node for node in model.graph if node.op_type == "QuantizeLinear")
    wrong = ir.Value(name="wrong", const_value=ir.Tensor(np.array(1, np.uint8), name="wrong"))
    wrong.shape, wrong.dtype = ir.Shape(()), ir.DataType.UINT8
    model.graph.register_initializer(wrong)
    quantizer.replace_input_with(2, wrong)
    complaint, _ = checker.check(model)
    assert "error" in complaint or "size off" in complaint


def test_module_in_quantization_aware_training_is_converted(tmp_path: Path) -> None:
    result = onnxopt.export(write(tmp_path, EAGER), tmp_path / "out", exporter="torchscript")
    (file,) = result.files
    assert file.layers is not None
    assert not file.layers.floating
    assert "FakeQuantize modules were converted" in result.notes[0]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("def make(): return nn.Sequential(ao.FakeQuantize()), IMAGES", "not made by prepare_qat"),
        (
            "def make():\n    net = nn.Sequential(ao.FakeQuantize())\n    net.qconfig = None\n"
            "    return net, IMAGES",
            r"leaves FakeQuantize modules in it \(0\)",
        ),
    ],
)
def test_other_fake_quantization_is_refused(tmp_path: Path, body: str, reason: str) -> None:
    with pytest.raises(InvalidInputError, match=reason) as error:
        onnxopt.export(write(tmp_path, body), tmp_path / "out")
    assert "\n" not in str(error.value)


def test_weights_of_torchao_are_exported_and_named(tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    body = """
from torchao.quantization import Int8WeightOnlyConfig, quantize_
def make():
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU())
    quantize_(net, Int8WeightOnlyConfig())
    return net, torch.rand(3, 6)
"""
    source = write(tmp_path, body)
    (part,) = load_function(source).parts
    part, runs, _ = run_references(part)
    assert own_noise(part, runs).differences["output"].relative >= 0
    result = onnxopt.export(source, tmp_path / "out", exporter="dynamo")
    assert result.files[0].largest_error < 1e-5
    assert "1 weights are torchao's Int8Tensor" in result.notes[0]
    sys.modules.pop("net", None)
