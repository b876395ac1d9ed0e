"""Samples of a bundle: inputs with what the model computes of them, and how near is near enough."""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from pathlib import Path
from typing import Any

from onnxopt.core.errors import InvalidInputError
from onnxopt.graph.loading import load_model
from onnxopt.runtime.bundles.arrays import MOST_BYTES, can_be_written, read_arrays, write_arrays
from onnxopt.runtime.bundles.manifest import Manifest, Sample
from onnxopt.runtime.inputs.plan import InputPlan
from onnxopt.runtime.inputs.trials import Trials, run_plan
from onnxopt.runtime.library import CannotRunError
from onnxopt.runtime.parity.comparison import compare
from onnxopt.runtime.parity.judging import Judge
from onnxopt.runtime.parity.noise import NoiseRuns
from onnxopt.runtime.parity.randomness import random_outputs
from onnxopt.runtime.parity.tolerance import QUANTIZED_FLOOR, Tolerance, is_quantized
from onnxopt.runtime.session import Session, open_session
from onnxopt.runtime.session_settings import SessionSettings

# A bundle is to be carried around: samples beyond this are left out, the first one excepted.
_WANTED_BYTES = 64 << 20
# Multiple of what this machine differs from itself by.
_OTHER_MACHINES = 10.0


@dataclasses.dataclass(frozen=True)
class Samples:
    """What was written.

    Attributes:
        samples: The files, relative to the bundle.
        tolerances: Output name to what another machine may differ by.
        notes: What could not be recorded, and why.
    """

    samples: tuple[Sample, ...] = ()
    tolerances: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()


def write_samples(model: Path, folder: Path, settings: SessionSettings, plan: InputPlan) -> Samples:
    """Runs a model on planned inputs and writes both sides into `samples/` of a folder.

    The tolerance is a multiple of what the model differs from itself by when ONNX Runtime computes
    it in other ways.

    Args:
        model: The bundle's model.
        folder: The bundle's folder.
        settings: How to run it.
        plan: The inputs.
    """
    try:
        trials = run_plan(settings.open(model), plan)
    except CannotRunError as error:
        return Samples(notes=(f"no samples: the model does not run: {error.reason}",))
    graph = load_model(model)
    random = random_outputs(graph)
    notes = [f"{name}: not in the samples, {node} is random" for name, node in random.items()]
    kept = [name for name in trials.outputs[0] if name not in random]
    for name in [name for name in kept if not can_be_written(trials.outputs[0][name])]:
        notes.append(f"{name}: not in the samples, it is a sequence or a map")
        kept.remove(name)
    odd = [name for name, value in trials.sets[0].feeds.items() if not can_be_written(value)]
    if odd or not kept:
        reason = f"input {odd[0]!r} is a sequence" if odd else "no output can be compared"
        return Samples(notes=(*notes, f"no samples: {reason}"))
    trials = _affordable(trials)
    if not trials.sets:
        return Samples(notes=(*notes, f"no samples: one takes more than {MOST_BYTES} bytes"))
    (folder / "samples").mkdir()
    samples = []
    for number, (one, outputs) in enumerate(zip(trials.sets, trials.outputs, strict=True)):
        sample = Sample(
            f"samples/{number}.inputs.npz", f"samples/{number}.outputs.npz", one.description
        )
        write_arrays(folder / sample.inputs, one.feeds)
        write_arrays(folder / sample.outputs, {name: outputs[name] for name in kept})
        samples.append(sample)
    judge = Judge(
        model, model, graph, open_ := partial(_open, settings), NoiseRuns(model, open_, "all")
    )
    equal = {name: compare(trials.outputs[0][name], trials.outputs[0][name]) for name in kept}
    tolerances = {
        output.name: dataclasses.asdict(_portable(output.tolerance, is_quantized(graph)))
        for output in judge.verdicts(equal, trials, always_measure=True)
    }
    return Samples(tuple(samples), tolerances, tuple(notes))


def check_samples(folder: Path, manifest: Manifest, session: Session) -> list[str]:
    """Runs all samples of a bundle; returns what is wrong, with the output's name.

    Raises:
        InvalidInputError: A sample or a tolerance is damaged.
    """
    complaints = []
    for sample in manifest.samples:
        feeds = read_arrays(folder / sample.inputs)
        expected = read_arrays(folder / sample.outputs)
        try:
            results = session.run(feeds)
        except CannotRunError as error:
            complaints.append(f"{sample.inputs}: the model does not run: {error.reason}")
            continue
        for name, array in expected.items():
            if name not in results:
                complaints.append(f"{sample.outputs}: the model has no output {name!r}")
                continue
            complaint = _tolerance(manifest, name).complaint(compare(array, results[name]))
            if complaint:
                complaints.append(f"{sample.outputs}: output {name!r}: {complaint}")
    return complaints


def _open(settings: SessionSettings, model: Path, optimization: Any, **changed: Any) -> Session:
    """Sessions for the noise: as the bundle's, but for what is varied."""
    return open_session(
        model,
        optimization=optimization,
        threads=changed.get("threads", settings.threads),
        spinning=False,
        arena=False,
    )


def _affordable(trials: Trials) -> Trials:
    sizes = [
        _size(one.feeds.values()) + _size(outputs.values())
        for one, outputs in zip(trials.sets, trials.outputs, strict=True)
    ]
    count, total = 0, 0
    for size in sizes:
        total += size
        if total > (_WANTED_BYTES if count else MOST_BYTES):
            break
        count += 1
    return dataclasses.replace(trials, sets=trials.sets[:count], outputs=trials.outputs[:count])


def _size(arrays: Any) -> int:
    return sum(getattr(array, "nbytes", 0) for array in arrays)


def _portable(tolerance: Tolerance, quantized: bool) -> Tolerance:
    """What other machines may make of it.

    Other instruction sets add in another order, in all layers at once. Some integers then round to
    the next step.
    """
    floor = QUANTIZED_FLOOR if quantized else tolerance
    factor = 1.0 if quantized else _OTHER_MACHINES
    return dataclasses.replace(
        tolerance,
        relative=max(tolerance.relative, factor * floor.relative),
        rms=max(tolerance.rms, factor * floor.rms),
        gain=max(tolerance.gain, factor * floor.gain),
        mismatches=max(tolerance.mismatches, floor.mismatches),
        slice=None if quantized or tolerance.slice is None else factor * tolerance.slice,
    )


def _tolerance(manifest: Manifest, name: str) -> Tolerance:
    try:
        figures = dict(manifest.tolerances[name])
        noise = figures.pop("noise", {})
        # JSON has made texts of the orders of magnitude.
        numbers: dict[str, Any] = {k: float(v) for k, v in figures.items() if v is not None}
        noise = {int(key): float(value) for key, value in noise.items()}
        if not all(map(math.isfinite, (*numbers.values(), *noise.values()))):
            raise ValueError("it is no number")
        return Tolerance(**numbers, noise=noise)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidInputError(f"the tolerance of output {name!r} is damaged: {error}") from error
