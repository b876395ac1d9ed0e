"""Collecting statistics and keeping them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from onnxopt.calibration.collecting import collect
from onnxopt.calibration.data import open_data
from onnxopt.calibration.table import load_table
from onnxopt.core.errors import InvalidInputError
from onnxopt.graph.fingerprint import fingerprint
from onnxopt.graph.quantization import Encoding

GRAPH = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 3] x) => (float[N, 3] y)
<float[3, 3] w = {1, 0, 0, 0, 2, 0, 0, 0, 3}>
{ a = MatMul(x, w)  b = Relu(a)  y = Add(b, x) }"""


def model() -> ir.Model:
    return ir.from_onnx_text(GRAPH)


def ragged() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{"x": rng.standard_normal((n, 3)).astype(np.float32)} for n in (1, 5, 2)]


def test_values_are_observed_over_ragged_batches() -> None:
    sets = ragged()
    table = collect(model(), ["x", "a", "b"], open_data(sets, model()))
    x = np.concatenate([one["x"] for one in sets])
    a = x @ np.diag([1, 2, 3])
    assert table.samples == 3
    assert table.statistics["x"].low == x.min()
    assert table.ranges("min-max", Encoding())["a"] == pytest.approx((a.min(), a.max()))
    assert table.ranges("min-max", Encoding())["b"] == pytest.approx((0, a.max()))


def test_chunks_of_little_memory_see_the_same() -> None:
    data = open_data(ragged(), model())
    parts: list[tuple[int, int]] = []
    small = collect(
        model(), ["x", "a", "b"], data, max_memory=1, progress=lambda *p: parts.append(p)
    )
    assert parts == [(1, 2), (2, 2)]
    assert small.ranges("mse", Encoding()) == collect(model(), ["x", "a", "b"], data).ranges(
        "mse", Encoding()
    )


def test_largest_magnitudes_by_channel() -> None:
    sets = ragged()
    table = collect(model(), ["x"], open_data(sets, model()), by_channel=["x"])
    expected = np.abs(np.concatenate([one["x"] for one in sets])).max(0)
    np.testing.assert_array_equal(table.statistics["x"].channels, expected)


@pytest.mark.parametrize("name", ["table.npz", "table.json"])
def test_a_table_comes_back_as_it_was(tmp_path: Path, name: str) -> None:
    table = collect(model(), ["x", "a"], open_data(ragged(), model()), by_channel=["x"])
    table.save(tmp_path / name)
    loaded = load_table(tmp_path / name)
    assert loaded.key == table.key
    for method in ("min-max", "percentile", "entropy"):
        assert loaded.ranges(method, Encoding()) == table.ranges(method, Encoding())
    np.testing.assert_array_equal(loaded.statistics["x"].channels, table.statistics["x"].channels)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_the_key_depends_on_graph_and_weights() -> None:
    changed = model()
    weight = changed.graph.initializers["w"]
    weight.const_value = ir.Tensor(np.eye(3, dtype=np.float32), name="w")
    renamed = ir.from_onnx_text(GRAPH.replace("b", "c"))
    assert fingerprint(model()) == fingerprint(model().clone())
    assert len({fingerprint(m) for m in (model(), changed, renamed)}) == 3


def test_a_table_of_another_model_is_refused() -> None:
    table = collect(model(), ["x"], open_data(ragged(), model()))
    with pytest.raises(InvalidInputError, match="another model"):
        table.require_key("0", "t.npz")


@pytest.mark.parametrize("content", [b"", b"{}", b"PK\x03\x04", b'{"version": 1}'])
@pytest.mark.parametrize("suffix", ["npz", "json"])
def test_damaged_tables_are_refused(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"t.{suffix}"
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match=r"t\."):
        load_table(path)


def test_infinite_data_are_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"sample 0.*'x'"):
        collect(model(), ["x"], open_data({"x": np.array([[1, np.inf, 0]], np.float32)}, model()))


def test_data_that_does_not_run_names_the_sample() -> None:
    text = (
        GRAPH.replace("y = Add(b, x)", "y = Reshape(b, s)")
        .replace("float[3, 3] w", "int64[2] s = {2, -1}, float[3, 3] w")
        .replace("(float[N, 3] y)", "(float[M, K] y)")
    )
    broken = ir.from_onnx_text(text)
    with pytest.raises(InvalidInputError, match="sample 1"):
        collect(
            broken, ["b", "y"], open_data([{"x": np.ones((2, 3))}, {"x": np.ones((3, 3))}], broken)
        )
