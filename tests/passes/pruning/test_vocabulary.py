"""Rows of embeddings by a list of token ids."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers.rewriting import parse_model, run

from onnxopt.core.errors import InvalidInputError
from onnxopt.passes.pruning.vocabulary import trim_vocabulary

_RNG = np.random.default_rng(0)
_TABLE = _RNG.standard_normal((10, 4)).astype(np.float32)
_HEAD = _RNG.standard_normal((4, 3)).astype(np.float32)


def _encoder() -> ir.Model:
    return parse_model(
        "g (int64[N, S] ids) => (float[N, S, 3] y) { e = Gather(t, ids) y = MatMul(e, h) }",
        {"t": _TABLE, "h": _HEAD},
    )


def _decoder() -> ir.Model:
    """The table is the output projection, too."""
    return parse_model(
        "g (int64[N, S] ids) => (float[N, S, V] y)"
        " { e = Gather(t, ids) r = Relu(e) h = Transpose<perm=[1,0]>(t) y = MatMul(r, h) }",
        {"t": _TABLE},
    )


def test_kept_tokens_give_the_same_and_others_the_unknown() -> None:
    model = _encoder()
    ids = np.array([[1, 7, 3], [2, 7, 7]], np.int64)
    (before,) = run(model, {"ids": ids})
    assert trim_vocabulary(model, [7, 1, 3], unknown=7) == 7
    assert tuple(model.graph.initializers["t"].const_value.shape) == (3, 4)
    (after,) = run(model, {"ids": ids})
    np.testing.assert_array_equal(after[0], before[0])
    np.testing.assert_array_equal(after[1, 0], before[0, 1])
    (again,) = run(model, {"ids": np.array([[-3]], np.int64)})
    np.testing.assert_array_equal(again[0, 0], before[0, 1])


def test_tables_that_computed_ids_pick_from_as_well_are_refused() -> None:
    model = parse_model(
        "g (int64[N, S] ids) => (float[N, S, 4] y)"
        " { e = Gather(t, ids) k = Abs(ids) f = Gather(t, k) y = Add(e, f) }",
        {"t": _TABLE},
    )
    with pytest.raises(InvalidInputError, match=r"Gather .f. picks them by ids that are no input"):
        trim_vocabulary(model, [7, 1, 3], unknown=7)
    assert tuple(model.graph.initializers["t"].const_value.shape) == (10, 4)


def test_tied_logits_become_narrower_only_when_asked() -> None:
    model = _decoder()
    ids = np.array([[1, 7, 3]], np.int64)
    (before,) = run(model, {"ids": ids})
    with pytest.raises(InvalidInputError, match="'y' keeps its shape; outputs may become narrower"):
        trim_vocabulary(model, [1, 3, 7], unknown=1)
    trim_vocabulary(model, [1, 3, 7], unknown=1, narrow_outputs=True)
    (after,) = run(model, {"ids": ids})
    np.testing.assert_allclose(after, before[..., [1, 3, 7]], rtol=1e-6)


@pytest.mark.parametrize(
    ("keep", "unknown", "message"),
    [
        ([], 0, "from 0 to 9"),
        ([3, 10], 3, "from 0 to 9"),
        ([-1, 3], 3, "from 0 to 9"),
        ([3], 4, "unknown token 4 is not among"),
    ],
)
def test_bad_lists_are_refused(keep: list[int], unknown: int, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        trim_vocabulary(_encoder(), keep, unknown)


def test_tables_read_by_computed_numbers_are_refused() -> None:
    model = parse_model(
        "g (float[N, S] x) => (float[N, 3] y)"
        " { i = ArgMax<axis=1, keepdims=0>(x) e = Gather(t, i) y = MatMul(e, h) }",
        {"t": _TABLE, "h": _HEAD},
    )
    with pytest.raises(InvalidInputError, match="no table of embeddings"):
        trim_vocabulary(model, [1], 1)
