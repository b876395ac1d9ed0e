"""The command line as a user meets it: help, output, exit codes, one clear line for bad input."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from click.testing import CliRunner, Result

import onnxopt.passes
from onnxopt.cli.group import COMMANDS, cli
from onnxopt.core.errors import OnnxOptError, ParityError
from onnxopt.core.passes import Pass, PassResult
from onnxopt.runtime.parity.check import ParityCheck
from onnxopt.runtime.parity.result import ParityResult

MODEL = """
<ir_version: 10, opset_import: ["" : 18]>
g (float[N, 4] x) => (float[N, 4] y) {
    two = Constant <value_float = 2.0> ()
    a = Identity(x)
    b = Mul(a, two)
    y = Relu(b)
}
"""

Run = Callable[..., Result]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(onnx.parser.parse_model(MODEL), path)
    return path


@pytest.fixture
def run() -> Run:
    def invoke(*arguments: object) -> Result:
        return CliRunner().invoke(cli, [str(argument) for argument in arguments])

    return invoke


def test_result_is_written_beside_the_input_when_no_output_is_named(model: Path, run: Run) -> None:
    before = model.read_bytes()
    result = run("optimize", model)
    assert result.exit_code == 0, result.output
    assert "remove-identities" in result.stdout
    assert "parity" in result.stdout
    optimized = ir.load(model.with_name("model.opt.onnx"))
    assert [node.op_type for node in optimized.graph] == ["Mul", "Relu"]
    assert model.read_bytes() == before
    assert sorted(path.name for path in model.parent.iterdir()) == ["model.onnx", "model.opt.onnx"]


def test_input_is_replaced_when_output_is_the_input(model: Path, run: Run) -> None:
    assert run("optimize", model, "-o", model).exit_code == 0
    assert len(ir.load(model).graph) == 2
    assert [path.name for path in model.parent.iterdir()] == ["model.onnx"]


def test_every_pass_is_described_as_json(run: Run) -> None:
    from onnxopt.passes import PASSES

    described = json.loads(run("passes", "--json").stdout)
    assert [entry["name"] for entry in described] == [cls.name for cls in PASSES]


def test_json_is_all_of_stdout_when_asked_for(model: Path, run: Run) -> None:
    report = json.loads(run("optimize", model, "--json").stdout)
    assert report["nodes"] == {"before": 4, "after": 2}
    assert report["parity"]["status"] == "passed"
    assert report["exit_code"] == 0


def test_nothing_is_said_when_quiet(model: Path, run: Run) -> None:
    result = run("optimize", model, "-q")
    assert (result.exit_code, result.output) == (0, "")


def test_only_named_passes_run_when_spec_is_given(model: Path, run: Run) -> None:
    report = json.loads(run("optimize", model, "--passes", "remove-identities", "--json").stdout)
    assert [entry["name"] for entry in report["passes"]] == ["remove-identities"]
    assert report["nodes"]["after"] == 3


def test_inspect_counts_when_shape_is_fixed(model: Path, run: Run) -> None:
    summary = json.loads(run("inspect", model, "--input-shape", "x=3,4", "--json").stdout)
    assert summary["nodes"] == 4
    assert summary["flops"] == 24
    assert summary["inputs"] == [{"name": "x", "type": "FLOAT", "shape": [3, 4]}]


def test_inspect_prints_symbols_when_read_by_a_person(model: Path, run: Run) -> None:
    result = run("inspect", model)
    assert result.exit_code == 0
    assert "N" in result.stdout
    assert "Identity" in result.stdout


def test_passes_explains_when_named(run: Run) -> None:
    result = run("passes", "fold-constants")
    assert result.exit_code == 0
    assert "max-growth" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--passes", "fold-constnts"], "did you mean fold-constants"),
        (["--passes", "fold-constants{growth=1}"], "no option 'growth'"),
        (["--passes", "fold-constants{max-growth=x}"], "takes int"),
        (["--input-shape", "z=1,4"], "the model's inputs are x"),
        (["--input-shape", "x=4"], "2 dimensions"),
        (["--input-shape", "x=1,5"], "fixed to"),
        (["--input-shape", "x"], "write NAME=D,D"),
        (["--input-shape", "x=99999999999999999999,4"], "write NAME=D,D"),
        (["--input-shape", "x=9223372036854775808,4"], "2^63"),
        (["--input-shape", "x=9223372036854775807,4"], "too large"),
        (["--input-shape", "x=2,4", "--input-shape", "x=3,4"], "given twice"),
        (["--inputs", "README.md"], "not a .npz file"),
        (["--inputs", "x.npz", "--guard", "off"], "parity run"),
        (["--opset", "12"], "can only be raised"),
        (["--target", "tpu"], "cpu or cuda"),
        (["--target", "cpu:isa=avx3"], "did you mean avx2"),
        (["--target", "cpu:threads=0"], "threads is a whole number"),
        (["--opset", "999"], "knows opsets up to"),
    ],
)
def test_one_line_says_what_is_wrong_when_an_option_is_bad(
    model: Path, arguments: list[str], message: str
) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "onnxopt", "optimize", str(model), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("onnxopt: error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
    assert [path.name for path in model.parent.iterdir()] == ["model.onnx"]


@pytest.fixture
def broken_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted pass that turns Relu into Neg."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Break(Pass):
        """Turns Relu into Neg."""

        name: ClassVar[str] = "break"

        def call(self, model: ir.Model) -> PassResult:
            relus = [n for n in model.graph if n.op_type == "Relu" and not n.domain]
            for node in relus:
                node.op_type = "Neg"
            return PassResult(model, Counter(broken=len(relus)))

    monkeypatch.setattr(onnxopt.passes, "PASSES", (*onnxopt.passes.PASSES, Break))


@pytest.mark.usefixtures("broken_pass")
@pytest.mark.parametrize("guard", ["parity", "full"])
def test_wrong_pass_is_undone_and_the_rest_is_written(model: Path, run: Run, guard: str) -> None:
    passes = "remove-identities,break"
    result = run("optimize", model, "--passes", passes, "--guard", guard, "--guard-budget", 30)
    assert result.exit_code == 0, result.output
    assert "undone: pass break at node" in result.stdout
    assert "output 'y'" in result.stdout
    optimized = ir.load(model.with_name("model.opt.onnx"))
    assert [node.op_type for node in optimized.graph] == ["Constant", "Mul", "Relu"]


@pytest.mark.usefixtures("broken_pass")
def test_wrong_pass_stays_when_the_guard_is_off(model: Path, run: Run) -> None:
    assert run("optimize", model, "--passes", "break", "--guard", "off").exit_code == 0
    assert "Neg" in [n.op_type for n in ir.load(model.with_name("model.opt.onnx")).graph]


@pytest.mark.usefixtures("broken_pass")
def test_exit_code_is_three_and_nothing_is_written_when_parity_cannot_be_restored(
    model: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = ParityResult("failed", ("output 'y': wrong",))
    monkeypatch.setattr(ParityCheck, "check", lambda self, model: failed)
    report = json.loads(run("optimize", model, "--passes", "break", "--json").stdout)
    assert report["exit_code"] == 3
    assert report["output"] == ""
    result = run("optimize", model, "--passes", "break")
    assert isinstance(result.exception, ParityError)
    assert result.exception.exit_code == 3
    assert "'y'" in str(result.exception)
    assert [path.name for path in model.parent.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help_and_the_shared_options(name: str, run: Run) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0
    assert COMMANDS[name][1] in result.output
    for option in ("-q", "-v", "--json"):
        assert option in result.output
    assert f"onnxopt {name}" in Path("README.md").read_text(encoding="utf-8")


def test_help_imports_neither_onnx_nor_numpy_when_shown() -> None:
    code = (
        "import sys\nfrom onnxopt.cli.group import cli\n"
        "try: cli.main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'onnx', 'onnx_ir', 'numpy', 'onnxruntime', 'rich', 'torch'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_errors_carry_exit_codes_when_raised() -> None:
    assert {cls.exit_code for cls in OnnxOptError.__subclasses__()} <= {1, 2, 3, 4}


def test_no_tolerance_at_all_is_a_tolerance(tmp_path: Path, run: Run) -> None:
    model, other = tmp_path / "model.onnx", tmp_path / "other.onnx"
    header = '<ir_version: 10, opset_import: ["": 18]>'
    text = header + " g (float[N] x) => (float[N] y) {{ y = {} (x) }}"
    for path, operator in ((model, "Sin"), (other, "Cos")):
        onnx.save(onnx.parser.parse_model(text.format(operator)), path)
    assert run("compare", model, other, "--tolerance", "0").exit_code == 3
