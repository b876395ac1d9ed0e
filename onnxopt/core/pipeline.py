"""`Pipeline`: runs passes in order, groups of passes to a fixpoint, and keeps one record of each.

Everything that watches passes (progress, verification, timing, parity, dumps) is an `Observer`.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections import Counter
from collections.abc import Iterator, Sequence

import onnx_ir as ir

from onnxopt.core.errors import OnnxOptError, PassFailedError
from onnxopt.core.fencing import fenced
from onnxopt.core.gate import Gate, Place
from onnxopt.core.passes import PassResult, Refusal, RewritePass
from onnxopt.core.report import PassRecord
from onnxopt.core.rewriting import run_rules
from onnxopt.core.walking import graph_tree

AnyPass = ir.passes.PassBase


class Observer:
    """Override what you want to see; every method does nothing by default."""

    def pass_started(self, names: Sequence[str], model: ir.Model) -> None:
        """Called before a pass, or before several rewrite passes that share one run."""

    def pass_finished(self, record: PassRecord, model: ir.Model) -> None:
        """Called once per pass after it ran; passes of a shared run report one after another."""

    def working(self, what: str) -> None:
        """Called while no pass runs, as in a parity run or a search: what goes on, in words."""


@dataclasses.dataclass(frozen=True)
class Repeat:
    """Passes that feed each other: run in order, again and again until none changes the model.

    Attributes:
        passes: What to run.
        limit: The most rounds; reaching it is reported as a refusal, not an error.
        leads: The others only tidy after this many of the first passes: a round ends behind these
            if they changed nothing.
    """

    passes: tuple[AnyPass, ...]
    limit: int = 10
    leads: int = 0


class PipelineResult(PassResult):
    """The sum over all passes, with one record for each run of each pass."""

    def __init__(self, model: ir.Model, records: Sequence[PassRecord]) -> None:
        self.records = list(records)
        total = sum((record.rewrites for record in self.records), Counter[str]())
        refusals = [refusal for record in self.records for refusal in record.refusals]
        super().__init__(model, total, refusals)


class Pipeline(ir.passes.InPlacePass):
    """Passes in order. It is itself a pass, so that it nests in onnx_ir's pass managers and here.

    Args:
        passes: Passes of onnxopt, onnx_ir or onnxscript, and `Repeat` groups of them.
        observers: Told before and after every pass.
        gate: Keeps passes, rules and nodes out of the run, and notes what was rewritten.
    """

    def __init__(
        self,
        passes: Sequence[AnyPass | Repeat],
        *,
        observers: Sequence[Observer] = (),
        gate: Gate | None = None,
    ) -> None:
        self.passes = tuple(passes)
        self.observers = tuple(observers)
        self.gate = gate or Gate()

    def __str__(self) -> str:
        return ",".join(pass_name(pass_) for pass_ in self.flattened())

    def flattened(self) -> Iterator[AnyPass]:
        """Every pass once, groups opened."""
        for item in self.passes:
            if isinstance(item, Repeat):
                yield from item.passes
            else:
                yield item

    def call(self, model: ir.Model) -> PipelineResult:
        """Runs all passes on `model`, in place.

        Raises:
            PassFailedError: A pass raised; the message names it and those that ran before it.
        """
        records: list[PassRecord] = []
        for item in self.passes:
            if isinstance(item, Repeat):
                self._repeat(item, model, records)
            else:
                self._round([item], model, records)
        return PipelineResult(model, records)

    def _repeat(self, group: Repeat, model: ir.Model, records: list[PassRecord]) -> None:
        first = len(records)
        for _ in range(group.limit):
            first = len(records)
            for part in (group.passes[: group.leads], group.passes[group.leads :]):
                self._round(part, model, records)
                if part and not any(record.modified for record in records[first:]):
                    return
        refusal = Refusal("", "", f"still changing after {group.limit} rounds; stopped there")
        for index in range(first, len(records)):
            record = records[index]
            if record.modified:
                refusals = [*record.refusals, refusal]
                records[index] = dataclasses.replace(record, refusals=refusals)

    def _round(self, passes: Sequence[AnyPass], model: ir.Model, records: list[PassRecord]) -> None:
        """One time through `passes`; neighbouring rewrite passes share one worklist run."""
        passes = [pass_ for pass_ in passes if self.gate.permits(pass_name(pass_))]
        for shared, run in itertools.groupby(passes, key=lambda p: isinstance(p, RewritePass)):
            if shared:
                self._run(list(run), model, records)
            else:
                for pass_ in run:
                    self._run([pass_], model, records)

    def _run(self, passes: list[AnyPass], model: ir.Model, records: list[PassRecord]) -> None:
        names = [pass_name(pass_) for pass_ in passes]
        for observer in self.observers:
            observer.pass_started(names, model)
        before = records[-1].nodes_after if records else count_nodes(model)
        start = time.perf_counter()
        results = _call(passes, model, records, self.gate)
        elapsed = time.perf_counter() - start
        modified = any(result.modified for result in results)
        after = count_nodes(model) if modified else before
        for name, result in zip(names, results, strict=True):
            record = PassRecord(
                name=name,
                rewrites=_rewrites(result, name),
                refusals=getattr(result, "refusals", []),
                seconds=getattr(result, "seconds", elapsed),
                nodes_before=before,
                nodes_after=after,
            )
            records.append(record)
            for observer in self.observers:
                observer.pass_finished(record, model)


def _call(
    passes: list[AnyPass], model: ir.Model, records: Sequence[PassRecord], gate: Gate
) -> Sequence[ir.passes.PassResult]:
    rewrite_passes = [pass_ for pass_ in passes if isinstance(pass_, RewritePass)]
    names = [pass_name(pass_) for pass_ in passes]
    gate.attempting = None
    try:
        if len(rewrite_passes) == len(passes):
            return run_rules(model, rewrite_passes, gate)
        with fenced(model, gate.fenced(names[0])):
            result = passes[0](model)
    except OnnxOptError:
        raise
    except Exception as error:  # re-raised: whatever a pass raises, the user learns which pass
        ran = list(dict.fromkeys(record.name for record in records))
        message = str(error).splitlines()[0] if str(error) else "no message"
        reason = f"{type(error).__name__}: {message}"
        # Rules share a run: the one that was tried last is the one that raised.
        where = f"pass {', '.join(names)}" if gate.attempting is None else Place(*gate.attempting)
        raise PassFailedError(
            f"{where} failed: {reason} (ran before it: {', '.join(ran) or 'nothing'})",
            names,
            reason,
        ) from error
    if result.model is not model:
        reason = "returned another model; only passes in place fit a Pipeline"
        raise PassFailedError(f"pass {names[0]} {reason}", names, reason)
    if result.modified:
        gate.taken.append(Place(names[0]))
    return [result]


def _rewrites(result: ir.passes.PassResult, name: str) -> Counter[str]:
    """What a pass counted; passes of other packages only say whether they changed something."""
    if isinstance(result, PassResult):
        return result.rewrites
    return Counter({name: 1} if result.modified else {})


def pass_name(pass_: AnyPass) -> str:
    """What records, reports and places call a pass."""
    return str(pass_) if getattr(pass_, "name", "") else type(pass_).__name__


def count_nodes(model: ir.Model) -> int:
    """Nodes in the main graph, all subgraphs and all functions."""
    bodies = [model.graph, *(function.graph for function in model.functions.values())]
    return sum(len(graph) for body in bodies for graph in graph_tree(body))
