"""The guard: what is wrong or slower is undone and named, and the rest of the gain is kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import pytest
from helpers.planted import CancelPairs, DropTanh, Explode, SlowDown, layers
from helpers.rewriting import op_types, parse_model

import onnxopt
from onnxopt.core.errors import ParityError
from onnxopt.core.pipeline import AnyPass, Observer, Repeat
from onnxopt.core.snapshot import snapshot
from onnxopt.passes.cleanup import ConvertOpset, FoldConstants, RemoveIdentities, RemoveUnused
from onnxopt.runtime.guard.budget import Budget
from onnxopt.runtime.guard.guarding import Guard, GuardMode, Outcome
from onnxopt.runtime.inputs.plan import InputSet
from onnxopt.runtime.measuring.benchmark import Ratio
from onnxopt.runtime.measuring.speed import measure_speed
from onnxopt.runtime.parity.check import ParityCheck, ParityResult

CLEAN = (FoldConstants(), RemoveIdentities(), RemoveUnused())
LAYERS = 12


def by_node_count(base: ir.Model, other: ir.Model, sets: Sequence[InputSet], limit: float) -> Ratio:
    """A machine on which a MatMul takes a second and everything else nothing."""
    ratio = cost(base) / cost(other)
    return Ratio(ratio, ratio * 0.99, ratio * 1.005, 10)


def cost(model: ir.Model) -> int:
    return op_types(model).count("MatMul")


class Clock:
    """Advances by a second each time it is read."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def guarded(
    passes: Sequence[AnyPass | Repeat],
    *,
    mode: GuardMode = "parity",
    budget: Budget | None = None,
    original: ir.Model | None = None,
) -> tuple[ir.Model, Outcome]:
    original = original or layers(LAYERS)
    work = snapshot(original)
    guard = Guard(ParityCheck(original), by_node_count, mode=mode, budget=budget or Budget(600))
    return work, guard.run(work, passes, original.clone)


def undone(outcome: Outcome) -> list[str]:
    return [str(entry) for entry in outcome.guard.undone]


@pytest.mark.parametrize("mode", ["parity", "full"])
def test_nothing_is_undone_when_all_is_well(mode: GuardMode) -> None:
    model, outcome = guarded([Repeat(CLEAN), CancelPairs()], mode=mode)
    assert outcome.parity.status == "passed"
    assert outcome.guard.undone == []
    assert outcome.guard.attempts == 0
    assert len(model.graph) == LAYERS + 1
    assert outcome.guard.checks == (1 if mode == "parity" else 2)


@pytest.mark.parametrize("mode", ["parity", "full"])
@pytest.mark.parametrize("grouped", [False, True])
def test_wrong_node_is_found_and_the_other_rewrites_are_kept(
    mode: GuardMode, grouped: bool
) -> None:
    passes = [*CLEAN, CancelPairs(wrong_at=("t7",))]
    model, outcome = guarded([Repeat(tuple(passes))] if grouped else passes, mode=mode)
    assert outcome.parity.status == "passed"
    (entry,) = outcome.guard.undone
    assert entry.rule == "double-transpose"
    assert entry.nodes == ("node_b7",)
    assert "output 'y'" in entry.reason
    # Only the two Transposes of layer 7 are left.
    assert len(model.graph) == LAYERS + 1 + 2
    assert outcome.guard.attempts > 0


def test_each_of_two_wrong_nodes_is_found() -> None:
    model, outcome = guarded([*CLEAN, CancelPairs(wrong_at=("t2", "t9"))])
    nodes = {node for entry in outcome.guard.undone for node in entry.nodes}
    assert nodes == {"node_b2", "node_b9"}
    assert len(model.graph) == LAYERS + 1 + 4
    assert outcome.parity.status == "passed"


def test_whole_rule_is_undone_when_it_is_wrong_nearly_everywhere() -> None:
    wrong = tuple(f"t{index}" for index in range(LAYERS - 1))
    model, outcome = guarded([*CLEAN, CancelPairs(wrong_at=wrong)])
    (entry,) = outcome.guard.undone
    assert entry.rule == "double-transpose"
    assert len(entry.nodes) == LAYERS
    assert "and 9 more" in str(entry)
    assert len(model.graph) == 3 * LAYERS + 1


@pytest.mark.parametrize("mode", ["parity", "full"])
def test_pass_that_is_fast_but_wrong_is_undone_and_the_gain_is_kept(mode: GuardMode) -> None:
    model, outcome = guarded([*CLEAN, DropTanh(), CancelPairs()], mode=mode)
    (entry,) = outcome.guard.undone
    assert entry.passes == ("drop-tanh",)
    assert outcome.parity.status == "passed"
    assert op_types(model).count("Tanh") == LAYERS
    assert len(model.graph) == LAYERS + 1
    assert "drop-tanh" not in [record.name for record in outcome.records]


def test_pass_without_rules_is_kept_from_the_one_node_that_it_breaks() -> None:
    wrong = DropTanh(only=("t4",))
    model, outcome = guarded([*CLEAN, wrong, CancelPairs()])
    (entry,) = outcome.guard.undone
    assert entry.nodes == ("node_t4",)
    assert len(model.graph) == LAYERS + 1


def test_both_culprits_are_undone_when_two_passes_are_wrong() -> None:
    model, outcome = guarded([Repeat((*CLEAN, DropTanh(), CancelPairs(wrong_at=("t3",))))])
    assert {entry.passes[0].partition("{")[0] for entry in outcome.guard.undone} == {
        "drop-tanh",
        "cancel-pairs",
    }
    assert len(model.graph) == LAYERS + 1 + 2
    assert outcome.parity.status == "passed"


@pytest.mark.parametrize("grouped", [False, True])
def test_slower_pass_is_undone_and_the_gain_is_kept(grouped: bool) -> None:
    passes = [*CLEAN, SlowDown(), CancelPairs()]
    model, outcome = guarded([Repeat(tuple(passes))] if grouped else passes, mode="full")
    (entry,) = outcome.guard.undone
    assert entry.passes == ("slow-down",)
    assert "0.25x as fast" in entry.reason
    assert len(model.graph) == LAYERS + 1
    assert outcome.parity.status == "passed"
    assert outcome.guard.speed is not None
    assert outcome.guard.speed["median"] == 1.0


def test_slower_pass_is_undone_in_a_group_that_is_faster_in_all() -> None:
    def measure(base: ir.Model, other: ir.Model, sets: Sequence[InputSet], limit: float) -> Ratio:
        one, two = (cost(m) + op_types(m).count("Transpose") for m in (base, other))
        return Ratio(one / two, one / two * 0.99, one / two * 1.005, 10)

    original = layers(LAYERS)
    work = snapshot(original)
    guard = Guard(ParityCheck(original), measure, mode="full", budget=Budget(600))
    group = Repeat((*CLEAN, SlowDown(), CancelPairs()))
    outcome = guard.run(work, [group], original.clone)
    (entry,) = outcome.guard.undone
    assert entry.passes == ("slow-down",)
    assert "0.25x as fast as without it" in entry.reason
    assert len(work.graph) == LAYERS + 1
    assert outcome.guard.speed is not None
    assert outcome.guard.speed["median"] == 2 * LAYERS + 1


def test_slower_and_wrong_passes_are_both_undone_in_one_run() -> None:
    passes = Repeat((*CLEAN, SlowDown(), DropTanh(), CancelPairs(wrong_at=("t5",))))
    model, outcome = guarded([passes], mode="full")
    names = {entry.passes[0].partition("{")[0] for entry in outcome.guard.undone}
    assert names == {"slow-down", "drop-tanh", "cancel-pairs"}
    assert len(model.graph) == LAYERS + 1 + 2


def test_slower_pass_stays_when_only_parity_is_guarded() -> None:
    model, outcome = guarded([*CLEAN, SlowDown()])
    assert outcome.guard.timings == 0
    assert op_types(model).count("MatMul") == 4


def test_slow_down_of_ten_times_is_seen_by_a_real_clock() -> None:
    original = layers(4)
    work = snapshot(original)

    def measure(base: ir.Model, other: ir.Model, sets: Sequence[InputSet], limit: float) -> Ratio:
        return measure_speed(base, other, sets, 0.8)

    guard = Guard(ParityCheck(original), measure, mode="full", budget=Budget(600))
    outcome = guard.run(work, [SlowDown(times=400), CancelPairs()], original.clone)
    assert ("slow-down{times=400}",) in [entry.passes for entry in outcome.guard.undone]
    assert op_types(work).count("MatMul") == 1


@pytest.mark.parametrize("mode", ["parity", "full"])
def test_pass_that_raises_is_undone_and_named(mode: GuardMode) -> None:
    model, outcome = guarded([*CLEAN, Explode(), CancelPairs()], mode=mode)
    assert undone(outcome) == ["pass explode: raised KeyError: 'boom'"]
    assert len(model.graph) == LAYERS + 1


def test_rule_that_raises_at_one_node_is_kept_from_that_node() -> None:
    model, outcome = guarded([*CLEAN, CancelPairs(wrong_at=("t6",), raises=True)])
    (entry,) = outcome.guard.undone
    assert (entry.rule, entry.nodes) == ("double-transpose", ("node_b6",))
    assert len(model.graph) == LAYERS + 1 + 2


def test_rule_that_raises_everywhere_is_left_out() -> None:
    wrong = tuple(f"t{index}" for index in range(LAYERS))
    model, outcome = guarded([*CLEAN, CancelPairs(wrong_at=wrong, raises=True)])
    (entry,) = outcome.guard.undone
    assert (entry.rule, entry.nodes) == ("double-transpose", ())
    assert len(model.graph) == 3 * LAYERS + 1


@pytest.mark.parametrize("mode", ["parity", "full"])
def test_all_is_undone_at_once_when_there_is_no_budget(mode: GuardMode) -> None:
    budget = Budget(0.0, Clock())
    model, outcome = guarded([*CLEAN, CancelPairs(wrong_at=("t7",))], mode=mode, budget=budget)
    assert outcome.parity.status == "passed"
    assert outcome.guard.exhausted
    assert outcome.guard.attempts == 0
    (entry,) = outcome.guard.undone
    assert "budget" in entry.reason
    assert any("cancel-pairs" in name for name in entry.passes)
    assert len(model.graph) == 4 * LAYERS + 1


def test_best_state_that_is_known_is_kept_when_the_budget_runs_out_midway() -> None:
    budget = Budget(12.0, Clock())
    passes = [*CLEAN, CancelPairs(), DropTanh(only=("t7",))]
    model, outcome = guarded(passes, budget=budget)
    assert outcome.guard.exhausted
    assert outcome.guard.attempts > 0
    assert outcome.parity.status == "passed"
    assert len(model.graph) < 4 * LAYERS + 1
    assert outcome.guard.undone


def test_wrong_node_is_found_by_what_it_computes() -> None:
    """A rule among many rewrites costs one attempt, not a bisection."""
    _, outcome = guarded([*CLEAN, CancelPairs(wrong_at=("t7",))])
    (entry,) = outcome.guard.undone
    assert (entry.rule, entry.nodes) == ("double-transpose", ("node_b7",))
    assert outcome.guard.attempts == 1


@pytest.mark.parametrize("seconds", [2, 9, 14])
def test_no_attempt_begins_that_does_not_fit_into_the_budget(seconds: int) -> None:
    _, outcome = guarded([*CLEAN, DropTanh()], budget=Budget(float(seconds), Clock()))
    assert outcome.parity.status == "passed"
    assert outcome.guard.seconds <= seconds + 4  # what is under way, and the last check


def test_observers_hear_of_the_search() -> None:
    class Listener(Observer):
        def __init__(self) -> None:
            self.heard: list[str] = []

        def working(self, what: str) -> None:
            self.heard.append(what)

    listener = Listener()
    onnxopt.optimize(layers(3), passes=[*CLEAN, DropTanh()], observers=[listener])
    assert "parity run" in listener.heard
    assert any(what.startswith("guard: attempt 1") for what in listener.heard)


def test_good_groups_stay_when_the_budget_runs_out_in_a_later_one() -> None:
    budget = Budget(7.0, Clock())
    passes = [RemoveIdentities(), CancelPairs(wrong_at=("t7",)), RemoveUnused()]
    model, outcome = guarded(passes, mode="full", budget=budget)
    assert outcome.guard.exhausted
    assert "Identity" not in op_types(model)
    assert outcome.parity.status == "passed"


@pytest.mark.parametrize("mode", ["parity", "full"])
def test_weights_are_shared_when_passes_are_undone(mode: GuardMode) -> None:
    original = layers(LAYERS)
    model, outcome = guarded([*CLEAN, DropTanh()], mode=mode, original=original)
    assert outcome.guard.undone
    before, after = (m.graph.initializers["w"].const_value for m in (original, model))
    assert before is after
    assert len(original.graph) == 4 * LAYERS + 1


def test_second_run_changes_nothing_when_the_first_undid_something() -> None:
    passes = [*CLEAN, CancelPairs(wrong_at=("t7",)), DropTanh()]
    first, _ = guarded(passes)
    second, outcome = guarded(passes, original=first)
    assert op_types(second) == op_types(first)
    assert outcome.parity.status == "passed"


def test_nothing_is_undone_when_the_original_does_not_run() -> None:
    model = parse_model("g (float[N] x) => (float[N] y) { a = Identity(x) y = Unknown(a) }")
    for mode in ("parity", "full"):
        work, outcome = guarded(list(CLEAN), mode=mode, original=model)
        assert outcome.parity.status == "not-run"
        assert outcome.guard.undone == []
        assert op_types(work) == ["Unknown"]


def test_parity_error_when_no_pass_is_to_blame(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = ParityResult("failed", ("output 'y': broken",))
    monkeypatch.setattr(ParityCheck, "check", lambda self, model: broken)
    with pytest.raises(ParityError) as caught:
        onnxopt.optimize(layers(2), passes=list(CLEAN))
    assert caught.value.report is not None
    assert caught.value.report.exit_code == 3


def test_groups_that_are_slower_only_together_are_undone_together() -> None:
    """Each group loses less than is proven; the sum is proven."""

    def slightly(base: ir.Model, other: ir.Model, sets: Sequence[InputSet], limit: float) -> Ratio:
        ratio = 1 - 0.001 * (4 * LAYERS + 1 - len(other.graph))
        far = len(base.graph) - len(other.graph) > 2 * LAYERS
        return Ratio(ratio, 0.9, 0.95 if far else 1.1, 10)

    original = layers(LAYERS)
    work = snapshot(original)
    guard = Guard(ParityCheck(original), slightly, mode="full", budget=Budget(600))
    outcome = guard.run(work, [RemoveIdentities(), CancelPairs(), RemoveUnused()], original.clone)
    (entry,) = outcome.guard.undone
    assert set(entry.passes) == {"remove-identities", "cancel-pairs"}
    assert len(work.graph) == 4 * LAYERS + 1
    assert outcome.parity.status == "passed"


def test_conversion_that_was_asked_for_is_not_timed() -> None:
    model, outcome = guarded([ConvertOpset(version=21)], mode="full")
    assert model.graph.opset_imports[""] == 21
    assert outcome.guard.timings == 0


def test_report_says_what_was_undone_and_what_that_cost() -> None:
    passes = [*CLEAN, CancelPairs(wrong_at=("t1",))]
    report = onnxopt.optimize(layers(3), passes=passes).report
    text = report.to_text()
    name = "cancel-pairs{wrong-at=t1}"
    assert f"undone: pass {name} rule double-transpose at node node_b1: output 'y'" in text
    assert "guard: " in text
    data = report.to_dict()
    assert data["exit_code"] == 0
    assert data["guard"]["undone"][0]["nodes"] == ["node_b1"]
    assert data["guard"]["seconds"] > 0
    assert report.seconds["guard"] > 0


def test_input_shapes_stay_fixed_when_the_guard_starts_again() -> None:
    passes = [*CLEAN, DropTanh()]
    result = onnxopt.optimize(layers(2), passes=passes, input_shapes={"x": (5, 16)})
    assert result.report.guard is not None
    assert result.report.guard.undone
    assert result.model.graph.inputs[0].shape == ir.Shape([5, 16])


def test_user_data_decides_what_is_wrong() -> None:
    # Abs in place of a double Transpose is right for what is positive.
    data = {"x": np.full((2, 16), 0.5, np.float32)}
    passes = [*CLEAN, CancelPairs(wrong_at=("t0",))]
    report = onnxopt.optimize(layers(1), passes=passes, inputs=data).report
    assert report.guard is None  # the data shows no difference, so nothing had to be searched
    assert report.parity is not None
    assert report.parity["status"] == "passed"
