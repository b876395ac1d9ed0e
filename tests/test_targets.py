"""Targets: text, detection, instruction sets."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from typing import Any

import pytest

from onnxopt.core.errors import InvalidInputError
from onnxopt.instruction_sets import best_isa, detect_isa, parse_cpuinfo
from onnxopt.passes.fusion import SumResiduals
from onnxopt.presets import cleanup
from onnxopt.targets import Target, as_target, detect_target, parse_target

CPUINFO = """processor\t: 0
flags\t\t: fpu sse2 avx2 avx512bw avx512_vnni

processor\t: 1
flags\t\t: fpu sse2 avx2 avx512bw
"""


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("cpu", Target()),
        ("cuda", Target("cuda")),
        ("cpu:threads=4", Target("cpu", 4)),
        ("cpu:threads=4,isa=avx2", Target("cpu", 4, "avx2")),
        (" CUDA:isa=vnni ", Target("cuda", None, "vnni")),
    ],
)
def test_text_is_read_and_printed_back(text: str, target: Target) -> None:
    assert parse_target(text) == target
    assert parse_target(str(target)) == target
    assert as_target(target) is target


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "write cpu or cuda"),
        ("tpu", "write cpu or cuda"),
        ("cpu:threads=many", "threads is a whole number"),
        ("cpu:cores=4", "options are threads and isa"),
        ("cpu:isa=avx51", "did you mean avx512"),
        ("cpu:isa=", "isa is one of"),
    ],
)
def test_one_line_says_what_to_write_when_the_text_is_wrong(text: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message) as caught:
        parse_target(text)
    assert "\n" not in str(caught.value)


def test_target_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Target().threads = 3  # type: ignore[misc]


def test_cpu_is_found_when_the_build_for_cuda_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    assert detect_target() == Target("cpu")


def test_instruction_set_is_the_best_that_all_cores_have() -> None:
    assert best_isa(parse_cpuinfo(CPUINFO)) == "avx512"
    assert best_isa({"sse2"}) == "generic"
    assert best_isa({"avx2", "avx_vnni"}) == "vnni"
    assert best_isa(parse_cpuinfo("Features : fp asimd asimddp")) == "dotprod"
    assert parse_cpuinfo("") == frozenset()
    assert Target().instruction_set == detect_isa()
    assert Target(isa="amx").instruction_set == "amx"


def test_preset_takes_targets_and_text() -> None:
    sums = [
        sum(isinstance(item, SumResiduals) for item in cleanup(target))
        for target in ("cpu", "cpu:threads=2", Target(), "cuda", Target("cuda"))
    ]
    assert sums == [1, 1, 1, 0, 0]
