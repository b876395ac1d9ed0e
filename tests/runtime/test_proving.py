"""Prover: a crash of ONNX Runtime is a finding about the model that caused it."""

from __future__ import annotations

import dataclasses
from contextlib import closing
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx_ir as ir
import pytest
from helpers.crashing import crash, crash_on_b, hang
from helpers.rewriting import parse_model

from onnxopt.graph.loading import load_model
from onnxopt.runtime.inputs.plan import plan_inputs
from onnxopt.runtime.parity.proving import CrashedError, Prover

_TEXT = "g (float[N,2] x) => (float[N,2] y) { y = Mul (x, w) }"


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    paths = tmp_path / "a.onnx", tmp_path / "b.onnx"
    for path, factor in zip(paths, (1, 3), strict=True):
        ir.save(parse_model(_TEXT, {"w": np.full(2, factor, np.float32)}), path)
    return paths


@pytest.mark.parametrize("isolated", [False, True])
def test_verdict_is_the_same_when_isolated(files: tuple[Path, Path], isolated: bool) -> None:
    original, changed = files
    with closing(Prover(original, plan_inputs(load_model(original)), isolated=isolated)) as prover:
        assert prover.isolated == isolated
        assert prover.prove(original).status == "passed"
        assert prover.prove(changed).status == "failed"


def test_crash_is_told_when_only_the_result_crashes(files: tuple[Path, Path]) -> None:
    original, changed = files
    plan = plan_inputs(load_model(original))
    with (
        closing(Prover(original, plan, isolated=True, check=crash_on_b)) as prover,
        pytest.raises(CrashedError, match=r"crashed \(SIGABRT\) on the optimized model"),
    ):
        prover.prove(changed)


def test_parity_is_not_run_when_the_original_crashes_too(files: tuple[Path, Path]) -> None:
    original, changed = files
    plan = plan_inputs(load_model(original))
    with closing(Prover(original, plan, isolated=True, check=crash)) as prover:
        result = prover.prove(changed)
    assert result.status == "not-run"
    assert "crashed (SIGABRT) on the original" in result.reasons[0]


def test_parity_is_not_run_when_the_original_hangs(files: tuple[Path, Path]) -> None:
    original, changed = files
    plan = plan_inputs(load_model(original))
    hanging = Prover(original, plan, isolated=True, check=hang, seconds=0.5)
    with closing(hanging) as prover:
        result = prover.prove(changed)
    assert result.status == "not-run"
    assert "took more than 0.5 s and was stopped on the original" in result.reasons[0]


def test_check_stays_in_this_process_when_inputs_cannot_travel(files: tuple[Path, Path]) -> None:
    original, changed = files
    # A mapping proxy stands for what cannot be pickled, such as a function's closure.
    plan = dataclasses.replace(plan_inputs(load_model(original)), bound=MappingProxyType({}))
    with closing(Prover(original, plan, isolated=True)) as prover:
        assert not prover.isolated
        assert prover.prove(changed).status == "failed"
