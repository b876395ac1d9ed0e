"""`prune`: targets, repair, refusals, reports."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from helpers.prunable import GRAPHS, attention
from helpers.rewriting import parse_model, random_feeds, run

import onnxopt
from onnxopt.core.errors import InvalidInputError
from onnxopt.runtime.measuring.ratio import Ratio


@pytest.fixture(autouse=True)
def no_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of a run is its number of weights: nothing is timed in tests."""

    def measure(base: ir.Model, other: ir.Model, *args: Any, **options: Any) -> Ratio:
        ratio = _parameters(base) / _parameters(other)
        return Ratio(ratio, ratio * 0.99, ratio * 1.01, 10)

    for module in ("running", "planning"):
        monkeypatch.setattr(f"onnxopt.pruning.{module}.measure_speed", measure)
    monkeypatch.setattr("onnxopt.pruning.running._SCALE_SECONDS", 0.0)


def _parameters(model: ir.Model) -> int:
    return sum(v.const_value.size for v in model.graph.initializers.values() if v.const_value)


def _mlp() -> ir.Model:
    """Hidden units 0 to 15, and near copies of them."""
    rng = np.random.default_rng(0)
    first = rng.standard_normal((8, 16)).astype(np.float32)
    first = np.hstack([first, first + 0.01 * rng.standard_normal((8, 16))]).astype(np.float32)
    return parse_model(
        "g (float[N,8] x) => (float[N,4] y)"
        " { m = MatMul(x, w) a = Add(m, b) r = Relu(a) o = MatMul(r, v) y = Add(o, c) }",
        {
            "w": first,
            "b": np.tile(rng.standard_normal(16), 2).astype(np.float32),
            "v": rng.standard_normal((32, 4)).astype(np.float32),
            "c": rng.standard_normal(4).astype(np.float32),
        },
    )


def _data(model: ir.Model, count: int = 24) -> list[dict[str, Any]]:
    return [random_feeds(model, {"N": 5}, seed=index) for index in range(count)]


def test_copies_are_removed_and_made_up_for_when_there_is_data() -> None:
    model = _mlp()
    result = onnxopt.prune(model, calibration=_data(model), sparsity=0.5, multiple=1)
    report = result.report
    assert report.error is not None
    assert report.unrepaired is not None
    assert report.error.rms < 0.02 < 0.3 < report.unrepaired.rms
    assert [(g.units, g.kept, g.importance) for g in report.groups] == [(32, 16, "hessian")]
    feeds = random_feeds(model, {"N": 3})
    (before,), (after,) = run(model, feeds), run(result.model, feeds)
    np.testing.assert_allclose(after, before, atol=0.15)


@pytest.mark.parametrize("graph", GRAPHS)
def test_every_structure_is_pruned_and_repaired(graph: Any) -> None:
    model = graph()
    before = _parameters(model)
    data = [random_feeds(model, {"N": 2}, seed=index) for index in range(6)]
    result = onnxopt.prune(model, calibration=data, sparsity=0.5, multiple=1)
    assert _parameters(model) == before
    assert _parameters(result.model) < before
    report = result.report
    assert report.error is not None
    if report.unrepaired is not None:
        assert report.error.rms <= report.unrepaired.rms
    outputs = [run(one, data[0]) for one in (model, result.model)]
    assert [a.shape for a in outputs[0]] == [a.shape for a in outputs[1]]


@pytest.mark.parametrize("goal", ["target_flops", "target_size", "target_latency"])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_targets_are_met_when_steps_are_fine(goal: str, scope: str) -> None:
    model = _mlp()
    result = onnxopt.prune(
        model, calibration=_data(model, 4), scope=scope, multiple=1, **{goal: 0.6}
    )
    assert result.report.met
    assert result.report.reached == pytest.approx(0.6, rel=0.05)


def test_a_target_out_of_reach_is_refused_with_the_best_there_is() -> None:
    with pytest.raises(InvalidInputError, match=r"size 0.01x cannot be met: 0\.\d+x"):
        onnxopt.prune(_mlp(), target_size=0.01)


def test_without_data_magnitudes_rank_and_nothing_is_repaired() -> None:
    report = onnxopt.prune(_mlp(), sparsity=0.25).report
    assert report.groups[0].importance == "l2"
    assert not report.repairs
    assert any("nothing was repaired" in note for note in report.notes)


def test_report_says_when_no_samples_were_kept_apart() -> None:
    model = _mlp()
    few = onnxopt.prune(model, calibration=_data(model, 2), sparsity=0.5).report.notes
    assert any("measured on those fitted on" in note for note in few)
    many = onnxopt.prune(model, calibration=_data(model, 8), sparsity=0.5).report.notes
    assert not any("measured on those fitted on" in note for note in many)


def test_statistics_of_batch_normalization_are_corrected() -> None:
    """The Relu in front and the padding behind keep it out of both convolutions."""
    rng = np.random.default_rng(1)
    model = parse_model(
        """
        g (float[N, 3, 6, 6] x) => (float[N, 2, 6, 6] y) {
            a0 = Conv(x, wa) a = Relu(a0) b0 = Conv(a, wb) b = Relu(b0)
            n = BatchNormalization(b, s, o, m, v) y = Conv<pads=[1,1,1,1]>(n, wc)
        }
        """,
        {
            **{
                name: rng.standard_normal(shape).astype(np.float32)
                for name, shape in {
                    "wa": (16, 3, 1, 1), "wb": (4, 16, 1, 1), "wc": (2, 4, 3, 3), "o": (4,)
                }.items()
            },
            "s": np.ones(4, np.float32),
            "m": np.full(4, 2, np.float32),
            "v": np.full(4, 9, np.float32),
        },
    )  # fmt: skip
    data = [random_feeds(model, {"N": 4}, seed=index) for index in range(12)]
    result = onnxopt.prune(
        model, calibration=data, sparsity=0.5, multiple=1, exclude=["n"], importance="random"
    )
    repairs = {one.node: one for one in result.report.repairs}
    assert set(repairs) == {"b0", "n", "y"}
    assert repairs["n"].after < repairs["n"].before
    before, after = (one.graph.initializers["o"].const_value for one in (model, result.model))
    assert before is not None
    assert after is not None
    assert not np.allclose(before.numpy(), after.numpy())
    np.testing.assert_array_equal(
        result.model.graph.initializers["v"].const_value.numpy(), np.full(4, 9, np.float32)
    )


def test_widths_are_multiples_that_were_asked_for() -> None:
    model = _mlp()
    finer = onnxopt.prune(model, sparsity=0.3).report.groups
    strict = onnxopt.prune(model, sparsity=0.3, multiple=8).report.groups
    assert [(g.units, g.kept) for g in finer] == [(32, 24)]
    assert [(g.units, g.kept) for g in strict] == [(32, 24)]
    assert [g.kept for g in onnxopt.prune(model, sparsity=0.2).report.groups] == [28]
    assert [g.kept for g in onnxopt.prune(model, sparsity=0.2, multiple=8).report.groups] == [32]


def test_operations_name_the_sizes_that_they_are_counted_with() -> None:
    model = _mlp()
    report = onnxopt.prune(model, calibration=_data(model, 4), sparsity=0.5, multiple=1).report
    assert report.sizes == {"N": 5}
    assert "operations of a run with N 5: " in report.to_text()


def test_an_old_opset_that_does_not_run_gets_advice() -> None:
    model = parse_model(
        "g (float[N,4] x) => (float[N,4] y)"
        " { m = MatMul(x, w) y = Add<axis=1, broadcast=1>(m, b) }",
        {"w": np.eye(4, dtype=np.float32), "b": np.ones(4, np.float32)},
        opset=6,
        ir_version=3,
    )
    with pytest.raises(InvalidInputError, match="onnxopt optimize IN --opset 17"):
        onnxopt.prune(model, sparsity=0.5)


def test_excluded_and_unasked_groups_stay() -> None:
    report = onnxopt.prune(attention(), sparsity=0.5, kinds=["head"], multiple=1).report
    assert {g.kind for g in report.groups if g.kept < g.units} == {"head"}
    with pytest.raises(InvalidInputError, match="nothing that can be pruned: excluded"):
        onnxopt.prune(_mlp(), sparsity=0.5, exclude=["Gemm"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give one of sparsity"),
        ({"sparsity": 0.5, "target_size": 0.5}, "not sparsity and target_size"),
        ({"sparsity": 1.0}, "below 1, not 1.0"),
        ({"target_flops": 0.0}, "over 0 and at most 1"),
        ({"sparsity": 0.5, "importance": "best"}, "importance is one of"),
        ({"sparsity": 0.5, "kinds": ["row"]}, "kinds are some of"),
        ({"sparsity": 0.5, "importance": "hessian"}, "needs data"),
        ({"sparsity": 0.5, "speed": 2}, "no option 'speed'"),
        ({"sparsity": 0.5, "exclude": ["nothing*"]}, "matches no node"),
        ({"sparsity": 0.5, "calibration": {"x": np.ones((3, 5), np.float32)}}, "x"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        onnxopt.prune(_mlp(), **options)


def test_quantized_and_pruned_models_are_refused() -> None:
    quantized = parse_model(
        "g (float[N,4] x) => (uint8[N,4] y) { y = QuantizeLinear(x, s, z) }",
        {"s": np.float32(0.1), "z": np.uint8(3)},
    )
    with pytest.raises(InvalidInputError, match="prune the float model, then quantize"):
        onnxopt.prune(quantized, sparsity=0.5)
    pruned = onnxopt.prune(_mlp(), sparsity=0.5).model
    with pytest.raises(InvalidInputError, match="pruned already"):
        onnxopt.prune(pruned, sparsity=0.5)


def test_weights_in_branches_stay_and_the_model_still_runs() -> None:
    model = parse_model(
        """
        g (float[N,8] x, bool c) => (float[N,4] y) {
            m = MatMul(x, w)
            r = Relu(m)
            o = MatMul(r, v)
            y = If (c) <
                then_branch = t () => (float[N,4] yt) { yt = MatMul(x, u) },
                else_branch = e () => (float[N,4] ye) { ye = Identity(o) }
            >
        }
        """,
        {
            n: np.random.default_rng(i).standard_normal(s).astype(np.float32)
            for i, (n, s) in enumerate({"w": (8, 16), "v": (16, 4), "u": (8, 4)}.items())
        },
    )
    data = [
        {
            "x": np.random.default_rng(i).standard_normal((3, 8)).astype(np.float32),
            "c": np.array(i % 2 == 0),
        }
        for i in range(8)
    ]
    result = onnxopt.prune(model, calibration=data, sparsity=0.5, multiple=1)
    shapes = {n: tuple(v.const_value.shape) for n, v in result.model.graph.initializers.items()}
    assert shapes["w"] == (8, 8)
    assert shapes["u"] == (8, 4)
    np.testing.assert_allclose(
        run(result.model, data[0])[0], run(model, data[0])[0], rtol=1e-5, atol=1e-5
    )
