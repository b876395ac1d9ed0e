"""Where a model is cut so that weights and values of a piece fit the memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
from helpers.rewriting import parse_model

from onnxopt.calibration.data import open_data
from onnxopt.calibration.pieces import cut_into_pieces
from onnxopt.calibration.second_moments import second_moments
from onnxopt.calibration.walk import Walk


def _chain() -> ir.Model:
    """Three products in a row; the first value is read again at the end."""
    return parse_model(
        "g (float[N,16] x) => (float[N,16] y) { a = Relu(x)  b = MatMul(a, u)  c = Relu(b)"
        " d = MatMul(c, v)  e = Add(d, a)  y = MatMul(e, w) }",
        {
            name: np.random.default_rng(seed).standard_normal((16, 16)).astype(np.float32)
            for seed, name in enumerate("uvw")
        },
    )


def test_pieces_end_before_the_reader_of_the_next_value() -> None:
    needs = {"e": 1, "a": 1, "c": 1}
    weight = 16 * 16 * 4
    (one,) = cut_into_pieces(_chain(), needs, 1 << 20)
    assert one.names == ("a", "c", "e")
    assert one.before == ""
    pieces = cut_into_pieces(_chain(), needs, 1)
    assert [(p.names, p.before) for p in pieces] == [(("a",), "d"), (("c",), "y"), (("e",), "")]
    # The values alone would fit into two pieces, with what is between them they do not.
    assert len(cut_into_pieces(_chain(), needs, 2 * weight)) == 3
    assert len(cut_into_pieces(_chain(), needs, 2 * weight + 2)) == 2


def test_moments_are_the_same_whatever_fits_the_memory(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    model = _chain()
    data = open_data(
        [{"x": rng.standard_normal((n, 16)).astype(np.float32)} for n in (3, 5)], model
    )
    widths = {"a": 16, "c": 16, "e": 16}
    whole = dict(second_moments(model, widths, data))
    for name, found in second_moments(model, widths, data, max_memory=1):
        assert found.rows == whole[name].rows == 8
        np.testing.assert_allclose(found.matrix, whole[name].matrix, rtol=1e-5)


def test_what_a_walk_cannot_keep_in_memory_waits_in_a_file() -> None:
    model = _chain()
    x = np.random.default_rng(0).standard_normal((4, 16)).astype(np.float32)
    walk = Walk(open_data([{"x": x}], model), [0], 0)
    (first,) = walk.advance(model, ["b"], "c")
    w = model.graph.initializers["v"].const_value
    assert w is not None
    (second,) = walk.advance(model, ["d"], "e")
    np.testing.assert_allclose(second["d"], np.maximum(first["b"], 0) @ w.numpy(), rtol=1e-5)


def test_without_values_there_is_no_piece() -> None:
    assert cut_into_pieces(_chain(), {}, 1) == []
