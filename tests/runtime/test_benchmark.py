"""The measuring core, with a clock that only moves when a fake model runs."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

import onnxopt
from onnxopt.core.errors import InvalidInputError
from onnxopt.runtime.measuring.benchmark import Ratio, paired_ratio
from onnxopt.runtime.measuring.interleaving import time_interleaved
from onnxopt.runtime.measuring.ratio import ratio_between, student_quantile

MODEL = "models/digits_cnn.onnx"


class Clock:
    """Seconds that pass only when somebody says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def model(self, seconds: float, noise: float = 0.0, seed: int = 0) -> Callable[[], None]:
        """A call that takes so long, give or take."""
        rng = np.random.default_rng(seed)

        def run() -> None:
            self.now += seconds * float(np.exp(noise * rng.standard_normal()))

        return run


def sessions(clock: Clock, seconds: float, spread: float, seed: int, count: int = 5):
    rng = np.random.default_rng(seed)
    factors = np.exp(spread * rng.standard_normal(count))
    return [
        clock.model(seconds * f, noise=0.05, seed=seed * 100 + i) for i, f in enumerate(factors)
    ]


def test_ratio_is_how_many_times_as_fast_the_other_is():
    clock = Clock()
    base = [clock.model(0.011, 0.001, i) for i in range(3)]
    other = [clock.model(0.010, 0.001, 9 + i) for i in range(3)]
    ratio = paired_ratio(base, other, seconds=1, clock=clock)
    assert ratio.median == pytest.approx(1.1, abs=0.005)
    assert ratio.low <= ratio.median <= ratio.high
    assert ratio.verdict == "faster"
    assert paired_ratio(other, base, seconds=1, clock=clock).verdict == "slower"


def test_copies_whose_sessions_differ_are_no_difference_in_95_of_100_runs():
    verdicts = []
    for seed in range(100):
        clock = Clock()
        base, other = (sessions(clock, 0.01, 0.02, 2 * seed + i) for i in (0, 1))
        verdicts.append(paired_ratio(base, other, seconds=1, clock=clock).verdict)
    assert verdicts.count("no difference") >= 95


def test_ten_percent_is_found_in_90_of_100_runs_although_sessions_differ():
    found = 0
    for seed in range(100):
        clock = Clock()
        base = sessions(clock, 0.01, 0.02, 2 * seed)
        slow = sessions(clock, 0.011, 0.02, 2 * seed + 1)
        found += paired_ratio(base, slow, seconds=1, clock=clock).verdict == "slower"
    assert found >= 90


def test_a_single_session_each_does_not_prove_five_percent():
    clock = Clock()
    ratio = paired_ratio(clock.model(0.0105), clock.model(0.01), seconds=1, clock=clock)
    assert ratio.median == pytest.approx(1.05)
    assert ratio.verdict == "no difference"
    large = paired_ratio(clock.model(0.0125), clock.model(0.01), seconds=1, clock=clock)
    assert large.verdict == "faster"


def test_what_a_whole_round_has_in_common_cancels_out():
    rng = np.random.default_rng(0)
    weather = np.exp(rng.standard_normal((200, 1)))
    times = weather * np.array([1.0, 1.01, 0.99, 1.2, 1.21, 1.19])
    ratio = ratio_between(times, range(3), range(3, 6))
    assert ratio.median == pytest.approx(1 / 1.2, rel=1e-3)
    assert ratio.high - ratio.low < 0.05


def test_verdict_needs_more_than_the_resolution():
    assert Ratio(1.008, 1.005, 1.011, 50).verdict == "no difference"
    assert Ratio(1.02, 1.011, 1.03, 50).verdict == "faster"
    assert Ratio(0.98, 0.97, 0.989, 50).verdict == "slower"
    assert Ratio(1.5, 1.4, 1.6, 7).to_dict()["verdict"] == "faster"


def test_student_quantiles_between_the_tabled_ones():
    assert student_quantile(4) == pytest.approx(2.776)
    assert student_quantile(7) == pytest.approx(2.365, abs=0.01)
    assert student_quantile(1e12) == pytest.approx(1.96, abs=0.001)


def test_fast_calls_run_in_bursts_and_slow_ones_once_a_turn():
    clock = Clock()
    fast = time_interleaved([clock.model(1e-4)] * 2, seconds=0.1, clock=clock)
    assert len(fast.runs[0]) >= 25 * len(fast.rounds)
    slow = time_interleaved([clock.model(0.5)] * 2, seconds=0.1, clock=clock)
    assert slow.rounds.shape == (3, 2)  # the fewest, although they take longer
    assert len(slow.runs[1]) == 3


def test_rounds_go_on_until_figures_are_exact_enough_but_not_for_ever():
    clock = Clock()
    asked = []

    def enough(rounds: np.ndarray) -> bool:
        asked.append(len(rounds))
        return len(asked) == 2

    calls = [clock.model(0.05)] * 2
    timings = time_interleaved(calls, seconds=1, clock=clock, enough=enough, longest=4)
    assert len(asked) == 2
    assert len(timings.rounds) == pytest.approx(20, abs=2)
    never = time_interleaved(calls, seconds=1, clock=clock, enough=lambda rounds: False, longest=4)
    assert len(never.rounds) == pytest.approx(40, abs=2)


def test_every_call_runs_once_in_every_round_in_changing_order():
    clock = Clock()
    order = []

    def call(index: int) -> Callable[[], None]:
        def run() -> None:
            order.append(index)
            clock.now += 0.1

        return run

    time_interleaved([call(i) for i in range(3)], seconds=2, clock=clock)
    rounds = [tuple(order[start : start + 3]) for start in range(9, len(order), 3)]
    assert all(sorted(one) == [0, 1, 2] for one in rounds)
    assert len(set(rounds)) > 1


def test_benchmark_of_two_models_has_all_figures():
    result = onnxopt.benchmark(MODEL, MODEL, seconds=0.05, sessions=2, batch=3, profile=True)
    first, second = result.models
    assert first.ratio is None
    assert second.ratio is not None
    assert first.batch == 3
    assert result.inputs == "batch=3"
    assert first.name == MODEL  # the file name alone would not tell them apart
    assert first.load is not None
    assert first.load.peak_bytes >= first.load.base_bytes > 0
    assert first.profile is not None
    assert {"Conv"} <= {cost.op_type for cost in first.profile.op_types}
    data = result.to_dict()
    assert set(data["models"][0]["latency_ms"]) == {"p50", "p90", "p99"}


def test_fewer_sessions_are_opened_and_a_note_says_so_when_time_is_short():
    result = onnxopt.benchmark(MODEL, MODEL, seconds=1e-9, sessions=5, load=False)
    assert result.settings["sessions"] == 1
    assert "1 session a model" in result.notes[0]


def test_a_model_in_memory_is_measured_without_load_cost():
    result = onnxopt.benchmark(onnxopt.load(MODEL), seconds=0.02, sessions=1)
    assert result.models[0].load is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"provider": "cuda"}, "CUDAExecutionProvider"),
        ({"provider": "tpu"}, "cpu or cuda"),
        ({"batch": 2, "input_shapes": {"image": (1, 1, 8, 8)}}, "--batch 2"),
        ({"seconds": 0}, "more than 0"),
        ({"inputs": {"x": np.zeros(1)}}, "no input is named 'x'"),
    ],
)
def test_one_line_when_something_does_not_fit(options, message):
    with pytest.raises(InvalidInputError, match=message) as caught:
        onnxopt.benchmark(MODEL, **options)
    assert "\n" not in str(caught.value)


def test_settings_are_recorded():
    result = onnxopt.benchmark(
        MODEL, seconds=0.02, sessions=1, threads=1, optimization="basic", load=False,
        disabled_optimizers=["ConstantFolding"],
    )  # fmt: skip
    assert result.settings["threads"] == 1
    assert result.settings["optimization"] == "basic"
    assert result.settings["disabled_optimizers"] == ("ConstantFolding",)
    assert dataclasses.is_dataclass(result)
