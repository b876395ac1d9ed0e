"""Orders of units from what flows into their consumers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from helpers.rewriting import parse_model, random_feeds

from onnxopt.calibration.data import open_data
from onnxopt.graph.axes.groups import find_groups
from onnxopt.pruning.ladders import activation_ladders


def _model() -> ir.Model:
    rng = np.random.default_rng(0)
    return parse_model(
        "g (float[N,6] x) => (float[N,8] y) { m = MatMul(x, w) r = Tanh(m) y = MatMul(r, v) }",
        {
            "w": rng.standard_normal((6, 8)).astype(np.float32),
            "v": rng.standard_normal((8, 8)).astype(np.float32),
        },
    )


def test_groups_over_the_memory_are_ranked_by_activation() -> None:
    model = _model()
    opened = open_data([random_feeds(model, {"N": 16}, seed=index) for index in range(4)], model)
    groups = list(find_groups(model))
    found = {
        memory: activation_ladders(model, groups, "hessian", opened, range(4), max_memory=memory)[0]
        for memory in (1 << 20, 1 << 10)
    }
    plain = activation_ladders(model, groups, "activation", opened, range(4), max_memory=1 << 20)[0]
    assert [ladder.measure for ladder in found.values()] == ["hessian", "activation"]
    np.testing.assert_allclose(found[1 << 10].costs, plain.costs)
