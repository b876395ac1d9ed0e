"""The API of `onnxopt prune --mask`: zeros in weights that keep their shapes."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from onnxopt.calibration.collecting import DEFAULT_MEMORY
from onnxopt.calibration.data import CalibrationData, open_data
from onnxopt.calibration.measuring import HELD_OUT, overlap_notes, reference_on
from onnxopt.core.choices import check_choices
from onnxopt.core.errors import InvalidInputError
from onnxopt.core.passes import Refusal
from onnxopt.core.pipeline import Observer
from onnxopt.core.timing import timed
from onnxopt.graph.cost import weight_bytes
from onnxopt.graph.linear_maps import LinearMap
from onnxopt.graph.naming import excluded_names
from onnxopt.graph.saving import save_model
from onnxopt.passes.pruning.masks import RULE, maskable, name_of
from onnxopt.pruning.compressing import compressed_rest
from onnxopt.pruning.error_limit import require_error
from onnxopt.pruning.input_moments import InputMoments, input_moments
from onnxopt.pruning.mask_choosing import mask_weight
from onnxopt.pruning.mask_options import MaskOptions
from onnxopt.pruning.mask_report import MaskReport
from onnxopt.pruning.preparing import finished, prepare
from onnxopt.pruning.repairing import LARGEST
from onnxopt.runtime.library import require_runtime
from onnxopt.runtime.loadable import opens
from onnxopt.runtime.measuring.speed import measure_speed
from onnxopt.targets import as_target

if TYPE_CHECKING:
    from onnx import ModelProto

PathLike = str | os.PathLike[str]
_TIMING_SECONDS = 8.0


@dataclasses.dataclass(frozen=True)
class MaskResult:
    """A model with zeros in its weights, and how it came about."""

    model: ir.Model
    report: MaskReport


def mask_weights(
    model: PathLike | ir.Model | ModelProto,
    output: PathLike | None = None,
    *,
    calibration: Any = None,
    preprocess: str | Callable[[Path], Any] | None = None,
    tokenizer: PathLike | None = None,
    samples: int | None = None,
    max_memory: int = DEFAULT_MEMORY,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    target: Any = None,
    external_data: bool | None = None,
    observers: Sequence[Observer] = (),
    **choices: Any,
) -> MaskResult:
    """Sets weights of Conv, Gemm and MatMul to zero, for compression and for sparse kernels.

    ONNX Runtime has no sparse kernels and runs the result no faster; `prune` removes units.

    Args:
        model: Path of an ONNX file, or a model in memory, which is left as it is.
        output: Where to write the result; None to only return it.
        calibration: Data (see `calibration.data.open_data`). Three quarters of it choose and
            repair, the rest measures. Without it magnitudes choose.
        preprocess: How images become arrays.
        tokenizer: A folder with a tokenizer.json, for text.
        samples: Use no more input sets than this.
        max_memory: Bytes for moments and activations, beyond the model.
        input_shapes: Shapes of inputs that are synthesized.
        target: Where the result will run (see `optimize`).
        external_data: Keep weights in a separate file; by default only over protobuf's 2 GB.
        observers: Told about the passes of the preparation, and weight by weight.
        choices: Fields of `MaskOptions`: pattern, sparsity, importance, repair, exclude, seed,
            max_error.

    Returns:
        The masked model and the report.

    Raises:
        ParityError: The error is over `max_error`.
        OnnxOptError: A model or data cannot be read, an option does not fit, the model is
            quantized, NaN is in a weight, or there is nothing to mask.
    """
    check_choices(MaskOptions, choices, internal={"target"})
    choices["exclude"] = tuple(choices.get("exclude", ()))
    options = MaskOptions(target=as_target(target), **choices)
    measure = options.measure(has_data=calibration is not None)
    require_runtime()
    source = os.fspath(model) if isinstance(model, (str, os.PathLike)) else ""
    report = MaskReport(source=source, pattern=options.pattern, sparsity=options.share)
    with timed(report.seconds, "prepare"):
        work, report.preparation = prepare(model, output, options.target, observers)
    sites = _chosen(work, options, report)
    data = open_data(
        calibration,
        work,
        preprocess=preprocess,
        tokenizer=tokenizer,
        limit=samples,
        input_shapes=input_shapes,
    )
    fitting, measuring = data.split(HELD_OUT)
    report.notes += [*data.notes, *overlap_notes(data, fitting, measuring, "fitted")]
    report.samples = 0 if data.synthesized else len(fitting)
    providers = options.target.execution_providers
    with timed(report.seconds, "reference"):
        reference = reference_on(work, data, measuring, providers)
    report.measured, report.bytes = len(reference.sets), weight_bytes(work)
    # Both are timed as they would be written.
    whole = finished(work, options.target)
    with timed(report.seconds, "mask"):
        observed = _observed(work, sites, data, fitting, measuring, max_memory)
        for site, moments in observed:
            for observer in observers:
                observer.working(f"{name_of(site)} ({len(report.weights)} of {len(sites)})")
            report.weights.append(mask_weight(site, options, measure, moments))
    places = {name_of(site): place for place, site in enumerate(sites)}
    report.weights.sort(key=lambda one: places[one.node])
    with timed(report.seconds, "compress"):
        rest = compressed_rest(work, {site.weight for site in sites})
        before, after = (sum(one.compressed[i] for one in report.weights) for i in (0, 1))
        report.compressed = before + rest, after + rest
    result = finished(work, options.target)
    with timed(report.seconds, "measure"):
        report.error = reference.deviation(result)
        report.speed = measure_speed(
            whole,
            result,
            reference.sets,
            _TIMING_SECONDS,
            threads=options.target.threads,
            providers=providers,
        )
    require_error(report.error, options.max_error, f"the {options.pattern} mask", report)
    if output is not None:
        verify = opens("the masked model", providers)
        with timed(report.seconds, "save"):
            save_model(result, output, external_data=external_data, verify=verify)
        report.output = os.fspath(output)
    return MaskResult(result, report)


def _chosen(model: ir.Model, options: MaskOptions, report: MaskReport) -> list[LinearMap]:
    """The products to mask; the others go into the report."""
    found, report.refusals = maskable(model, options.pattern)
    excluded = set(excluded_names(model, options.exclude))
    sites = [site for site in found if site.node.name not in excluded]
    report.refusals += [
        Refusal(RULE, name_of(site), "it is excluded")
        for site in found
        if site.node.name in excluded
    ]
    if not sites:
        why = "no Conv, Gemm or MatMul multiplies with a weight of floats"
        if report.refusals:
            first = report.refusals[0]
            why = f"{first.node!r}, for example, is left alone: {first.reason}"
        raise InvalidInputError(f"there is nothing to mask: {why}")
    return sites


def _observed(
    model: ir.Model,
    sites: Sequence[LinearMap],
    data: CalibrationData,
    fitting: Sequence[int],
    measuring: Sequence[int],
    max_memory: int,
) -> Iterator[tuple[LinearMap, InputMoments | None]]:
    """Products with the moments of their inputs; without, where these are not known.

    Those are products in subgraphs, and very long ones.
    """
    seen: set[LinearMap] = set()
    if not data.synthesized:
        main = [s for s in sites if s.node.graph is model.graph and s.inputs <= LARGEST]
        for moments in input_moments(model, main, data, fitting, measuring, max_memory=max_memory):
            for site in moments.sites:
                seen.add(site)
                yield site, moments
    for site in sites:
        if site not in seen:
            yield site, None
