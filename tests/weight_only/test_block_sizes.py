"""`block_size="auto"`: the choice, and what is kept of the measurements."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.rewriting import parse_model

from onnxopt.runtime.measuring import block_timing
from onnxopt.runtime.measuring.block_timing import BlockTimes, time_block_sizes
from onnxopt.weight_only import quantize_weights
from onnxopt.weight_only.block_sizes import Settings, choose_block_sizes

_SETTINGS = Settings(bits=4, symmetric=True, accuracy_level=4)


@pytest.fixture
def timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Every shape that is measured; tall ones are slow in small blocks."""
    monkeypatch.setenv("ONNXOPT_CACHE", str(tmp_path))
    shapes: list[tuple[int, int]] = []

    def measure(shape: tuple[int, int], sizes: object, **_: object) -> BlockTimes:
        shapes.append(shape)
        if shape[0] > 64:
            return BlockTimes([2e-4, 1.02e-4, 1e-4], steady=True)
        return BlockTimes([1.01e-5, 1e-5, 1.2e-5], steady=shape[1] != 48)

    monkeypatch.setattr(block_timing, "time_block_sizes", measure)
    return shapes


def test_the_smallest_block_that_is_about_as_fast_as_any_is_taken(
    timed: list[tuple[int, int]],
) -> None:
    chosen = choose_block_sizes({(64, 64), (128, 64)}, _SETTINGS)
    assert {shape: size for shape, (size, _) in chosen.items()} == {(64, 64): 32, (128, 64): 64}
    assert "32 2.00, 64 1.02, 128 1.00" in chosen[128, 64][1]


def test_what_was_measured_is_not_measured_again(
    timed: list[tuple[int, int]], tmp_path: Path
) -> None:
    for _ in range(2):
        choose_block_sizes({(64, 64)}, _SETTINGS)
    assert timed == [(64, 64)]
    choose_block_sizes({(64, 64), (64, 32)}, _SETTINGS)
    choose_block_sizes({(64, 64)}, Settings(4, True, 4, threads=1))
    assert timed == [(64, 64), (64, 32), (64, 64)]
    assert list(tmp_path.iterdir()) == [tmp_path / "block_sizes.json"]


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1', "null"])
def test_a_damaged_file_is_measured_anew(
    timed: list[tuple[int, int]], tmp_path: Path, content: str
) -> None:
    (tmp_path / "block_sizes.json").write_text(content)
    choose_block_sizes({(64, 64)}, _SETTINGS)
    assert timed == [(64, 64)]
    (machine,) = json.loads((tmp_path / "block_sizes.json").read_text()).values()
    assert list(machine) == ["64x64 4 bits symmetric level 4"]


def test_a_damaged_entry_is_measured_anew(timed: list[tuple[int, int]], tmp_path: Path) -> None:
    choose_block_sizes({(64, 64)}, _SETTINGS)
    path = tmp_path / "block_sizes.json"
    path.write_text(path.read_text().replace("1e-05", '"fast"'))
    choose_block_sizes({(64, 64)}, _SETTINGS)
    assert timed == [(64, 64), (64, 64)]


def test_figures_of_a_busy_machine_are_used_and_not_kept(timed: list[tuple[int, int]]) -> None:
    for _ in range(2):
        size, line = choose_block_sizes({(64, 48)}, _SETTINGS)[64, 48]
        assert size == 32
        assert "the machine was busy" in line
    assert timed == [(64, 48), (64, 48)]


def test_a_folder_that_cannot_be_written_to_only_costs_time(
    timed: list[tuple[int, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ONNXOPT_CACHE", str(tmp_path / "file"))
    assert choose_block_sizes({(64, 64)}, _SETTINGS)[64, 64][0] == 32


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
def test_kernels_are_run_in_every_size(
    bits: int, symmetric: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_timing, "_MOST_COPIES", 2)
    sizes = (32, 64, 128)
    found = time_block_sizes((160, 48), sizes, bits=bits, symmetric=symmetric, seconds=0.01)
    assert len(found.seconds) == 3
    assert all(0 < one < 1 for one in found.seconds)


def test_products_get_the_size_of_their_shape_and_tables_keep_theirs(
    timed: list[tuple[int, int]],
) -> None:
    rng = np.random.default_rng(0)
    weights = {
        name: rng.standard_normal(shape).astype(np.float32)
        for name, shape in {"t": (50, 64), "a": (64, 128), "b": (128, 64)}.items()
    }
    model = parse_model(
        "g (int64[N] i) => (float[N,64] y)"
        " { x = Gather(t, i)  h = MatMul(x, a)  y = MatMul(h, b) }",
        weights,
    )
    report = quantize_weights(model, smallest=16, block_size="auto").report
    sizes = {one.name: one.block_size for one in report.weights}
    assert sizes == {"t": 32, "a": 32, "b": 64}
    assert sorted(timed) == [(64, 128), (128, 64)]
    assert any("128 x 64: blocks of 64" in note for note in report.notes)
