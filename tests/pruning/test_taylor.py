"""First-order importance: what it ranks, and what it refuses."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from helpers.prunable import attention, recurrence, residual_cnn
from helpers.rewriting import parse_model, random_feeds

from onnxopt.calibration.data import open_data
from onnxopt.core.errors import InvalidInputError, MissingDependencyError
from onnxopt.graph.axes.groups import find_groups

pytest.importorskip("torch")

from onnxopt.pruning.taylor import taylor_ladders
from onnxopt.recovering import gradients
from onnxopt.recovering.gradients import first_order_effects


def _hidden(gains: np.ndarray) -> ir.Model:
    """Hidden units whose share of the output is known, up to what x makes of them."""
    rng = np.random.default_rng(0)
    first = rng.standard_normal((6, len(gains))).astype(np.float32)
    second = np.linalg.qr(rng.standard_normal((len(gains), len(gains))))[0]
    return parse_model(
        "g (float[N,6] x) => (float[N,8] y) { m = MatMul(x, w) r = Tanh(m) y = MatMul(r, v) }",
        {"w": first, "v": (gains[:, None] * second).astype(np.float32)},
    )


def _ladders(model: ir.Model, count: int = 16) -> Any:
    data = [random_feeds(model, {"N": 16}, seed=index) for index in range(count)]
    opened = open_data(data, model)
    groups = list(find_groups(model))
    return groups, taylor_ladders(model, groups, opened, range(count)), opened


def test_scores_are_shares_of_the_outputs_spread() -> None:
    gains = np.array([1, 0, 2, 0.5, 4, 0.25, 3, 0.1])
    _, (ladder,), opened = _ladders(_hidden(gains), 64)
    assert ladder.measure == "taylor"
    assert ladder.order[0] == 1
    assert ladder.costs[0] == 0
    # Rows of an orthogonal matrix: the output without a unit lacks exactly its energy.
    x = np.concatenate([opened[index].feeds["x"] for index in range(64)])
    model = _hidden(gains)
    first = model.graph.initializers["w"].const_value
    assert first is not None
    energy = np.square(np.tanh(x @ first.numpy()) * gains).mean(0)
    wanted = energy / energy.sum()
    np.testing.assert_allclose(ladder.costs, wanted[ladder.order], atol=0.1)
    assert list(ladder.order[-3:]) == [2, 6, 4]


@pytest.mark.parametrize("graph", [residual_cnn, attention])
def test_every_group_of_a_structure_is_ranked(graph: Any) -> None:
    groups, ladders, _ = _ladders(graph(), 4)
    for group, ladder in zip(groups, ladders, strict=True):
        assert ladder.measure == "taylor"
        assert sorted(ladder.order) == list(range(len(group)))
        assert np.all(np.diff(ladder.costs) >= 0)
        assert ladder.costs[-1] > 0


def test_operators_without_gradients_are_named() -> None:
    with pytest.raises(InvalidInputError, match=r"importance taylor: .*LSTM; take hessian"):
        _ladders(recurrence(), 2)


def test_missing_pytorch_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch", "onnxopt.recovering.gradients"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match="onnxopt\\[export\\]"):
        _ladders(_hidden(np.ones(8)), 2)


@pytest.mark.parametrize("constant", [False, True])
def test_an_output_of_one_number_does_not_drown_the_others(constant: bool) -> None:
    rng = np.random.default_rng(0)
    model = parse_model(
        "g (float[1,16] x) => (float[1,8] y, float[1,1] v)"
        " { m = MatMul(x, w) r = Relu(m) y = MatMul(r, u) v = MatMul(r, t) }",
        {
            name: rng.standard_normal(shape).astype(np.float32)
            for name, shape in (("w", (16, 32)), ("u", (32, 8)), ("t", (32, 1)))
        },
    )
    feeds = random_feeds(model, {})
    data = [feeds if constant else random_feeds(model, {}, seed=index) for index in range(8)]
    sums = {"u": 0.0, "t": 0.0}
    for effects in first_order_effects(model, set(sums), open_data(data, model), range(8)):
        for name in sums:
            sums[name] += float(np.square(effects[name]).sum())
    assert 0.02 < sums["t"] / sums["u"] < 50


def test_draws_are_made_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    draw = gradients._random_loss
    monkeypatch.setattr(gradients, "_random_loss", lambda *a: made.append(0) or draw(*a))
    model = _hidden(np.ones(8))
    data = open_data([random_feeds(model, {"N": 4})], model)
    effects = first_order_effects(model, {"v"}, data, range(1))
    next(effects)
    assert len(made) == 1
    next(effects)
    assert len(made) == 2
