from __future__ import annotations

import numpy as np
import pytest
from helpers.prunable import GRAPHS, attention, residual_cnn
from helpers.rewriting import assert_refuses, parse_model, random_feeds, run

from onnxopt.core.errors import InvalidInputError
from onnxopt.passes.pruning import PruneUnits


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("importance", ["l1", "l2", "random"])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_pruned_model_runs_when_its_interface_is_unchanged(graph, importance, scope) -> None:
    model = graph()
    feeds = random_feeds(model, {"N": 2})
    before = run(model, feeds)
    pass_ = PruneUnits(sparsity=0.5, importance=importance, scope=scope, multiple=1)
    result = pass_(model)
    assert result.modified
    after = run(model, feeds)
    assert [a.shape for a in before] == [a.shape for a in after]
    assert not pass_(model).modified


def test_heads_and_neurons_are_removed_when_half_is_asked_for() -> None:
    model = attention()
    result = PruneUnits(sparsity=0.5, multiple=1)(model)
    assert result.rewrites == {"pruned-head": 2, "pruned-neuron": 12}
    shapes = {n: tuple(v.const_value.shape) for n, v in model.graph.initializers.items()}
    assert shapes["wp"] == (16, 24)
    assert shapes["bp"] == (24,)
    assert shapes["wo"] == (8, 16)
    assert shapes["wd"] == (12, 16)


def test_widths_are_rounded_up_when_kernels_like_multiples() -> None:
    model = attention()
    PruneUnits(sparsity=0.5, multiple=16)(model)
    assert tuple(model.graph.initializers["wd"].const_value.shape) == (16, 16)


def test_kept_slices_are_those_of_the_original_when_units_go() -> None:
    wa = np.diag([1, 5, 2, 4]).astype(np.float32)
    model = parse_model(
        "g (float[N, 4] x) => (float[N, 2] y) { a = MatMul(x, wa) b = Relu(a) y = MatMul(b, wb) }",
        {"wa": wa, "wb": np.ones((4, 2), np.float32)},
    )
    PruneUnits(sparsity=0.5, multiple=1)(model)
    np.testing.assert_array_equal(model.graph.initializers["wa"].const_value, wa[:, [1, 3]])


def test_shared_weight_is_sliced_apart_when_its_users_differ() -> None:
    model = residual_cnn()
    model.graph.initializers["m"].replace_all_uses_with(model.graph.initializers["o"])
    PruneUnits(sparsity=0.5, multiple=1)(model)
    run(model, random_feeds(model, {"N": 1}))


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, float("nan")])
def test_error_is_one_line_when_sparsity_is_out_of_range(sparsity: float) -> None:
    with pytest.raises(InvalidInputError, match="sparsity is at least 0 and below 1"):
        PruneUnits(sparsity=sparsity).call(residual_cnn())


def test_quantized_models_are_refused() -> None:
    model = parse_model(
        "g (float[N, 4] x) => (uint8[N, 4] y) { y = QuantizeLinear(x, s, z) }",
        {"s": np.float32(0.1), "z": np.uint8(3)},
    )
    assert_refuses(PruneUnits(), model, "then quantize it")
