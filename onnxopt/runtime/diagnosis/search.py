"""Finds the nodes at which one model starts to differ from another, for any rewrite.

1. The outputs are compared on several inputs; within the original's own noise there is nothing to
   find. Of the inputs the one with the largest difference is kept.
2. Values are paired over both graphs. If they do not fit into memory together, a few spread over
   the graph are compared first, and the search goes on above the first one that differs.
3. Of what is left, every part of the second model between paired values runs on the original's
   values: what differs then is its own error and not inherited.
4. The parts with an error of their own are explained by their nodes, weights and numbers.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from onnxopt.core.errors import InvalidInputError
from onnxopt.graph.loading import load_model
from onnxopt.runtime.diagnosis.dissecting import Dissection
from onnxopt.runtime.diagnosis.finding import Diagnosis, Status
from onnxopt.runtime.diagnosis.probing import as_declared
from onnxopt.runtime.diagnosis.replay import excess
from onnxopt.runtime.inputs.plan import InputSet, plan_inputs
from onnxopt.runtime.inputs.trials import Trials, run_plan
from onnxopt.runtime.library import CannotRunError
from onnxopt.runtime.parity.comparable_session import ComparableSession
from onnxopt.runtime.parity.conversion import decibels, find_conversion, parse_budget
from onnxopt.runtime.parity.difference import Difference
from onnxopt.runtime.parity.judging import Judge
from onnxopt.runtime.parity.noise import NoiseRuns, differences_of
from onnxopt.runtime.parity.padding import Masked, describe, masked_outputs, trimmed
from onnxopt.runtime.parity.randomness import random_outputs
from onnxopt.runtime.parity.result import OutputParity
from onnxopt.runtime.parity.spooling import Spool
from onnxopt.runtime.session import ModelSource, Optimization, Session, open_session

DEFAULT_MEMORY = 256 << 20


def diagnose(
    original: str | os.PathLike[str] | ir.Model,
    rewritten: str | os.PathLike[str] | ir.Model,
    *,
    inputs: Any = None,
    budget: float | str | None = None,
    memory: int = DEFAULT_MEMORY,
    everything: bool = False,
) -> Diagnosis:
    """Says where `rewritten` starts to differ from `original`.

    Args:
        original: The reference.
        rewritten: What became of it, by any tool.
        inputs: Data to run on, by input name or as the path of a .npz file; synthesized by default.
        budget: Error that an output may have: a relative root mean square (0.01), or as text also
            "1%" or "40dB". By default the noise of the original; if `rewritten` has fewer bits,
            what is usual for them.
        memory: Bytes for intermediate values at a time, beside the models.
        everything: Look at every value, also where looking at a few is enough.

    Raises:
        InvalidInputError: One of them does not run, or their inputs or outputs have other names.
        OnnxOptError: A model cannot be read.
    """
    start = time.perf_counter()
    models = [_loaded(model) for model in (original, rewritten)]
    sources = [_source(model) for model in (original, rewritten)]
    conversion = find_conversion(*models)
    allowed = parse_budget(budget) if isinstance(budget, str) else budget
    if allowed is None and conversion is not None:
        allowed = conversion.budget
    verdict = _Verdict(sources, models, inputs)
    status, reason = verdict.against(allowed)
    notes = list(verdict.notes)
    if conversion is not None and budget is None and status != "same":
        notes.append(
            f"the budget of {decibels(conversion.budget):.0f} dB is a rule of thumb for "
            f"{conversion.what}; set your own with --budget"
        )
    found = Diagnosis(
        status,
        reason,
        tuple(verdict.outputs),
        inputs=verdict.worst.description,
        notes=tuple(notes),
        conversion="" if conversion is None else conversion.what,
        budget=allowed,
    )
    # Fewer bits may overflow where the outputs hide it: on a CPU, float16 is computed in float.
    if status != "same" or everything or conversion is not None:
        feeds = verdict.worst.feeds
        dissection = Dissection(models[0], models[1], feeds, memory, everything, conversion)
        found = dissection.run(found)
    return dataclasses.replace(found, seconds=time.perf_counter() - start)


class _Verdict:
    """Whether the outputs differ, and on which inputs most.

    Attributes:
        outputs: Figures of each.
        worst: The inputs with the largest difference.
        notes: What was found out on the way.
    """

    def __init__(self, sources: list[ModelSource], models: list[ir.Model], inputs: Any) -> None:
        plan = plan_inputs(models[0], inputs)
        random = random_outputs(models[0])
        session = _open_first(sources[0], "the first model")
        interface = session.inputs, session.outputs
        masks = masked_outputs(plan.specs, *interface)

        def opened(model: ModelSource, optimization: Optimization, **settings: Any) -> Session:
            session = _open(model, optimization, **settings)
            return ComparableSession(session, masks, interface[1]) if masks else session

        first = Spool()
        try:
            reference = run_plan(session, plan, first)
        except CannotRunError as error:
            raise InvalidInputError(
                f"the first model does not run {error.reason}; give data with --inputs"
            ) from error
        reference = dataclasses.replace(reference, outputs=first.read())
        del session
        session = _open_first(sources[1], "the second model")
        for what, one, other in zip(
            ("inputs", "outputs"), interface, (session.inputs, session.outputs), strict=True
        ):
            names, new_names = [v.name for v in one], [v.name for v in other]
            if set(names) != set(new_names):
                raise InvalidInputError(
                    f"the models have different {what}: {names} and {new_names}; "
                    "diagnose compares models with the same interface"
                )
        result = _run_cast(session, reference)
        del session
        reference, result = (_trimmed(trials, masks) for trials in (reference, result))
        noise = NoiseRuns(sources[0], opened, "all")
        judge = Judge(sources[0], sources[1], models[0], opened, noise)
        self.outputs: list[OutputParity] = judge.outputs(reference, result, skipped=random)
        self.notes = [*reference.notes, *describe(masks), *judge.notes]
        failed = sorted(
            (o for o in self.outputs if o.complaint),
            key=lambda o: excess(o.difference, o.tolerance),
            reverse=True,
        )
        self._failed = failed
        self._sets = len(reference.sets)
        self.worst = _worst(reference, result, [o.name for o in failed or self.outputs])

    def against(self, budget: float | None) -> tuple[Status, str]:
        """The verdict, and the worst output in words.

        Args:
            budget: Relative root mean square of an error that is within bounds; None for none.
        """
        if not self._failed:
            outputs = f"{len(self.outputs)} output" + "s" * (len(self.outputs) != 1)
            sets = f"{self._sets} input set" + "s" * (self._sets != 1)
            return "same", f"{outputs} on {sets} within the noise of the first model"
        worst = self._failed[0]
        if budget is None or worst.difference.broken:
            return "different", f"output {worst.name!r}: {worst.complaint}"
        worst = max(self._failed, key=lambda o: _size(o.difference))
        error = _size(worst.difference)
        words = f"rms error {error:.2%} (SQNR {decibels(error):.1f} dB)"
        if worst.difference.kind != "float":
            words = f"{error:.2%} of its entries differ"
        verdict: Status = "within" if error <= budget else "different"
        join = "of" if verdict == "within" else "over the budget of"
        words += f", {join} {budget:.2%} ({decibels(budget):.1f} dB)"
        return verdict, f"output {worst.name!r}: {words}"


def _size(found: Difference) -> float:
    return found.rms if found.kind == "float" else found.mismatches


def _worst(reference: Trials, result: Trials, names: list[str]) -> InputSet:
    def badness(index: int) -> float:
        one, other = (
            dataclasses.replace(t, sets=t.sets[:1], outputs=t.outputs[index : index + 1])
            for t in (reference, result)
        )
        found = differences_of(one, other, names).values()
        return max((float("inf") if d.broken else d.rms + d.mismatches for d in found), default=0.0)

    return reference.sets[max(range(len(reference.sets)), key=badness)]


def _run_cast(session: Session, reference: Trials) -> Trials:
    """Runs the second model on the first one's inputs; its floats may be of another width."""
    outputs = Spool()
    for one, expected in zip(reference.sets, reference.outputs, strict=True):
        try:
            results = session.run(as_declared(session, one.feeds))
        except CannotRunError as error:
            raise InvalidInputError(
                f"the second model does not run at {one.description}: {error.reason}"
            ) from error
        outputs.append({name: _like(results[name], expected[name]) for name in expected})
        del results  # large ones make room for those of the next run
    return Trials(reference.sets, outputs.read())


def _trimmed(trials: Trials, masks: Mapping[str, Masked]) -> Trials:
    outputs = [
        trimmed(found, one.feeds, masks)
        for one, found in zip(trials.sets, trials.outputs, strict=True)
    ]
    return dataclasses.replace(trials, outputs=tuple(outputs))


def _like(result: Any, expected: Any) -> Any:
    kinds = {getattr(getattr(x, "dtype", None), "kind", "") for x in (result, expected)}
    if kinds <= set("fV") and result.dtype != expected.dtype:
        return result.astype(expected.dtype)
    return result


def _open(model: ModelSource, optimization: Optimization, **settings: Any) -> Session:
    return open_session(
        model,
        optimization=optimization,
        spinning=False,
        reuse_memory=False,
        # Packed weights would be another copy of the model.
        prepacking=False,
        arena=False,
        **settings,
    )


def _open_first(model: ModelSource, what: str) -> Session:
    try:
        return _open(model, "all")
    except CannotRunError as error:
        raise InvalidInputError(f"{what} does not load: {error.reason}") from error


def _loaded(model: str | os.PathLike[str] | ir.Model) -> ir.Model:
    return model if isinstance(model, ir.Model) else load_model(model)


def _source(model: str | os.PathLike[str] | ir.Model) -> ModelSource:
    return model if isinstance(model, ir.Model) else Path(model)
