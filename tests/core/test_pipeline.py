"""Pipelines: order, records, observers, passes of onnx_ir, and what happens when a pass raises."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

import onnx_ir as ir
import onnx_ir.passes.common
import pytest
from helpers.rewriting import op_types, parse_model

from onnxopt.core.errors import PassFailedError
from onnxopt.core.passes import Pass, PassResult, Refusal
from onnxopt.core.pipeline import Observer, Pipeline, Repeat, count_nodes
from onnxopt.core.report import PassRecord, Report
from onnxopt.passes.cleanup import FoldConstants, RemoveIdentities, RemoveUnused

MODEL = """g (float[N] x) => (float[N] y) {
    dead = Neg(x) a = Identity(x) b = Identity(a) y = Relu(b)
}"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Explode(Pass):
    name: ClassVar[str] = "explode"

    def call(self, model: ir.Model) -> PassResult:
        raise KeyError("boom")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CountDown(Pass):
    """Changes the model a given number of times."""

    name: ClassVar[str] = "count-down"

    def call(self, model: ir.Model) -> PassResult:
        left = int(model.metadata_props.get("left", "3"))
        model.metadata_props["left"] = str(max(left - 1, 0))
        refusals = [Refusal("rule", "node", f"{left} left")]
        return PassResult(model, Counter({"tick": 1} if left else {}), refusals)


def test_passes_of_onnx_ir_run_and_are_recorded_when_mixed_with_ours() -> None:
    model = parse_model(MODEL)
    pipeline = Pipeline([ir.passes.common.IdentityEliminationPass(), RemoveUnused()])
    result = pipeline.call(model)
    assert op_types(model) == ["Relu"]
    first = result.records[0]
    assert first.name == "IdentityEliminationPass"
    assert (first.modified, first.nodes_before, first.nodes_after) == (True, 4, 2)


def test_repeat_runs_until_nothing_changes() -> None:
    result = Pipeline([Repeat((CountDown(),))]).call(parse_model(MODEL))
    assert [record.modified for record in result.records] == [True, True, True, False]
    assert result.rewrites == Counter(tick=3)


@pytest.mark.parametrize(("left", "runs"), [("0", 1), ("1", 3)])
def test_followers_run_only_when_a_lead_changed_something(left: str, runs: int) -> None:
    model = parse_model(MODEL)
    model.metadata_props["left"] = left
    result = Pipeline([Repeat((CountDown(), RemoveUnused()), leads=1)]).call(model)
    names = [record.name for record in result.records]
    assert names == ["count-down", "remove-unused", "count-down"][:runs]


def test_report_sums_runs_and_keeps_the_refusals_that_still_stand() -> None:
    result = Pipeline([Repeat((CountDown(),))]).call(parse_model(MODEL))
    report = Report(records=result.records)
    (merged,) = report.merged()
    assert merged.rewrites == Counter(tick=3)
    assert report.refusals() == {("count-down", "rule", "0 left"): ["node"]}
    assert "count-down" in report.to_text()
    assert report.to_dict()["passes"][0]["rewrites"] == {"tick": 3}
    assert report.exit_code == 0
    report.parity = {"status": "failed"}
    assert report.exit_code == 3


def test_refusals_are_those_of_the_last_run_when_options_differ() -> None:
    def record(name: str, *nodes: str) -> PassRecord:
        refusals = [Refusal("rule", node, "reason") for node in nodes]
        return PassRecord(
            name=name, rewrites=Counter(), refusals=refusals, seconds=0.0,
            nodes_before=1, nodes_after=1,
        )  # fmt: skip

    records = [record("fuse", "a", "b"), record("other", "a"), record("fuse{operators=X}", "b")]
    assert Report(records=records).refusals() == {
        ("fuse{operators=X}", "rule", "reason"): ["b"],
        ("other", "rule", "reason"): ["a"],
    }


def test_observers_see_every_pass_in_order() -> None:
    seen: list[str] = []

    class Watch(Observer):
        def pass_started(self, names: Sequence[str], model: ir.Model) -> None:
            seen.append(f"start {','.join(names)} {count_nodes(model)}")

        def pass_finished(self, record: PassRecord, model: ir.Model) -> None:
            seen.append(f"end {record.name} {record.nodes_after}")

    passes = [RemoveUnused(), RemoveIdentities()]
    Pipeline(passes, observers=[Watch()]).call(parse_model(MODEL))
    assert seen == [
        "start remove-unused 4",
        "end remove-unused 3",
        "start remove-identities 3",
        "end remove-identities 1",
    ]


def test_error_names_the_pass_and_those_before_it_when_one_raises() -> None:
    pipeline = Pipeline([RemoveUnused(), FoldConstants(), Explode()])
    with pytest.raises(PassFailedError) as caught:
        pipeline.call(parse_model(MODEL))
    message = str(caught.value)
    assert message.count("\n") == 0
    assert "explode failed: KeyError: 'boom'" in message
    assert "remove-unused, fold-constants" in message
    assert isinstance(caught.value.__cause__, KeyError)


def test_pass_prints_only_options_that_differ() -> None:
    assert str(FoldConstants()) == "fold-constants"
    assert str(FoldConstants(max_growth=0)) == "fold-constants{max-growth=0}"
