"""The API of `onnxopt quantize`."""

from __future__ import annotations

import dataclasses
import functools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from onnxopt.calibration.collecting import DEFAULT_MEMORY, collect
from onnxopt.calibration.data import CalibrationData, open_data
from onnxopt.calibration.measuring import HELD_OUT, overlap_notes
from onnxopt.calibration.table import CalibrationTable, load_table
from onnxopt.core.choices import check_choices
from onnxopt.core.errors import InvalidInputError
from onnxopt.core.pipeline import Observer
from onnxopt.core.timing import timed
from onnxopt.graph.cost import weight_bytes
from onnxopt.graph.fingerprint import fingerprint
from onnxopt.graph.naming import excluded_names
from onnxopt.graph.saving import check_target, save_model
from onnxopt.quantizing.allowing import allowances
from onnxopt.quantizing.entries import count_quantized, node_entries
from onnxopt.quantizing.forms import forms, observed_names
from onnxopt.quantizing.measuring import affordable, open_reference
from onnxopt.quantizing.metrics import Metric, Score, open_metric
from onnxopt.quantizing.options import QuantizeOptions, split_names
from onnxopt.quantizing.preparing import Prepared, check_provider, prepare
from onnxopt.quantizing.repairing import Bases
from onnxopt.quantizing.report import QuantizationReport
from onnxopt.quantizing.search import Search
from onnxopt.quantizing.tried import Tried
from onnxopt.runtime.library import CannotRunError
from onnxopt.runtime.loadable import opens
from onnxopt.runtime.measuring.benchmark import Ratio
from onnxopt.runtime.measuring.speed import measure_speed
from onnxopt.runtime.parity.deviation import Reference
from onnxopt.targets import as_target

if TYPE_CHECKING:
    from onnx import ModelProto

PathLike = str | os.PathLike[str]
# About how long one timing may take.
_TIMING_SECONDS = 8.0
# Share of it that tells which forms are worth more.
_BRIEFLY = 0.25
# So slow a result is not worth having, whether that is proven or not.
_SEEMS_SLOWER = 0.99


@dataclasses.dataclass(frozen=True)
class QuantizeResult:
    """A quantized model, or the float one if none paid, and how it came about."""

    model: ir.Model
    report: QuantizationReport


def quantize(
    model: PathLike | ir.Model | ModelProto,
    output: PathLike | None = None,
    *,
    calibration: Any = None,
    calibration_table: PathLike | CalibrationTable | None = None,
    preprocess: str | Callable[[Path], Any] | None = None,
    tokenizer: PathLike | None = None,
    samples: int | None = None,
    max_memory: int = DEFAULT_MEMORY,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    target: Any = None,
    labels: Any = None,
    metric: str | Score | None = None,
    external_data: bool | None = None,
    observers: Sequence[Observer] = (),
    preparation: Mapping[str, Any] | None = None,
    **choices: Any,
) -> QuantizeResult:
    """Quantizes a model to 8 bits where that is faster and close enough, and proves both.

    Args:
        model: Path of an ONNX file, or a model in memory, which is left as it is.
        output: Where to write the result; None to only return it.
        calibration: Data: arrays by input name, a file, a folder, a function, an iterable (see
            `calibration.data.open_data`). Three quarters of it calibrate, the rest measures.
        calibration_table: A table, or the path of one: read if it exists, else written.
        preprocess: How images become arrays.
        tokenizer: A folder with a tokenizer.json, for text.
        samples: Use no more input sets than this.
        max_memory: Bytes for observed values, beyond the model.
        input_shapes: Shapes of inputs that are synthesized.
        target: Where the result will run (see `optimize`).
        labels: One class for each row of the data: top-1 accuracy counts (`metrics.open_metric`).
        metric: Or a function of outputs and the number of a sample, the higher the better.
        external_data: Keep weights in a separate file; by default only over protobuf's 2 GB.
        observers: Told about the passes of the preparation.
        preparation: Options of `optimize`, which prepares the model.
        choices: Fields of `QuantizeOptions`: mode, method, exclude, max_error, repair, ...

    Returns:
        The model that is fastest within the budget, and the report.

    Raises:
        OnnxOptError: A model or data cannot be read, or an option does not fit.
    """
    check_choices(QuantizeOptions, choices, internal={"target", "judged"})
    choices["exclude"] = tuple(choices.get("exclude", ()))
    choices["repair"] = split_names(choices.get("repair", "auto"))
    choices["judged"] = labels is not None or metric is not None
    options = QuantizeOptions(target=as_target(target), **choices)
    provider_notes = check_provider(options)
    end = time.perf_counter() + options.budget
    report = QuantizationReport(
        source=os.fspath(model) if isinstance(model, (str, os.PathLike)) else ""
    )
    with timed(report.seconds, "prepare"):
        prepared = prepare(model, options, preparation or {}, observers=observers)
        report.preparation = prepared.report
        report.notes += [*provider_notes, *prepared.notes]
        work = prepared.work
        if output is not None:
            check_target(prepared.original, output)
    report.bytes_before = weight_bytes(prepared.original)
    report.quantized_before = count_quantized(work)
    if report.quantized_before:
        report.notes.append(
            f"the model is quantized already ({report.quantized_before} such nodes): only its "
            "float parts are touched"
        )
    exclude = excluded_names(work, options.exclude)
    data = open_data(
        calibration,
        work,
        preprocess=preprocess,
        tokenizer=tokenizer,
        limit=samples,
        input_shapes=input_shapes,
    )
    report.notes += data.notes
    job = _Job(prepared, options, data, report, exclude, end)
    counts = open_metric(metric, labels, data, job.measuring)
    table = job.table(calibration_table, max_memory)
    chosen = job.search(table, counts, max_memory)
    report.chosen = "float" if chosen is None else str(chosen.form)
    result = job.proven((chosen and chosen.model) or prepared.best)
    report.bytes_after = weight_bytes(result)
    if output is not None:
        verify = opens("the quantized model", options.target.execution_providers)
        with timed(report.seconds, "save"):
            save_model(result, output, external_data=external_data, verify=verify)
        report.output = os.fspath(output)
    return QuantizeResult(result, report)


class _Job:
    """Calibrating and searching on one prepared model."""

    def __init__(
        self,
        prepared: Prepared,
        options: QuantizeOptions,
        data: CalibrationData,
        report: QuantizationReport,
        exclude: Sequence[str],
        end: float,
    ) -> None:
        self._prepared, self._model = prepared, prepared.work
        self._options, self._data = options, data
        self._reference: Reference | None = None
        self._report, self._exclude, self._end = report, exclude, end
        held_out = data.split(len(data), share=2) if options.judged else data.split(HELD_OUT)
        self._calibrating: Sequence[int] = held_out[0]
        self.measuring = held_out[1]
        report.notes += overlap_notes(data, *held_out, "calibrated")

    def table(
        self, given: PathLike | CalibrationTable | None, max_memory: int
    ) -> CalibrationTable | None:
        """The statistics: given, read, or collected now."""
        options, model = self._options, self._model
        if options.mode == "dynamic" and (self._data.synthesized or not options.correct_bias):
            return None
        path = None if given is None or isinstance(given, CalibrationTable) else Path(given)
        if isinstance(given, CalibrationTable) or (path is not None and path.exists()):
            table = given if isinstance(given, CalibrationTable) else load_table(path or "")
            table.require_key(fingerprint(model), str(path or "the table"))
            self._report.samples = table.samples
            return table
        if self._data.synthesized:
            if options.mode == "static":
                raise InvalidInputError(
                    "static quantization needs the ranges of real data: --calibration DATA, or "
                    "--mode dynamic, which needs none"
                )
            return None
        with timed(self._report.seconds, "calibrate"):
            self._calibrating = affordable(
                model, self._data, self._calibrating, options, self._report.notes
            )
            names = observed_names(model, products=options.tries_products)
            table = collect(
                model, names, self._data, samples=self._calibrating, max_memory=max_memory
            )
        self._report.samples = len(self._calibrating)
        self._report.notes += table.notes
        if path is not None:
            table.save(path)
        return table

    def search(
        self, table: CalibrationTable | None, metric: Metric | None, max_memory: int
    ) -> Tried | None:
        """The form to use, or None for float; fills the report."""
        options, report = self._options, self._report
        found, notes = forms(self._model, options, has_ranges=table is not None)
        entries = functools.partial(node_entries, self._model, options, table is not None)
        if not report.quantized_before:
            report.notes += notes
        if not found:
            report.notes.append("there is nothing that can be quantized")
            report.nodes = entries(None)
            return None
        with timed(report.seconds, "measure"):
            reference = open_reference(
                self._prepared.best, self._data, self.measuring, options, report.notes
            )
            self._reference = reference
            timer = functools.partial(self._ratio, self._prepared.best)
            bases = Bases(self._model, options, table, self._data, self._calibrating, max_memory)
            now = time.perf_counter()
            end = max(self._end - self._careful, now + options.budget / 2)
            search = Search(
                self._model, options, bases, reference, timer, self._exclude, metric, end
            )
            chosen = search.run(found)
        if self._data.synthesized and search.tried:
            report.notes.append(
                "no data given: error and speed were measured on synthesized inputs, and accuracy "
                "was not repaired; give real ones (--calibration DATA)"
            )
        report.repairs, report.float_score = search.improving.entries, search.float_score
        report.metric = "" if metric is None else metric.name
        report.measured = len(reference.sets)
        report.candidates = [one.as_candidate() for one in search.tried]
        report.allowances = allowances(
            search.tried, chosen, search.is_within, options, search.float_score
        )
        told = chosen or next(iter(search.tried), search.untaken)
        report.nodes = entries(told, search.losses)
        if search.out_of_time or search.improving.out_of_time:
            ended = f"the search ended after its {options.budget:.0f} seconds"
            report.notes.append(f"{ended}; more may be found with more (--budget)")
        return chosen

    def proven(self, result: ir.Model) -> ir.Model:
        """The result, or the model as it was given if that is proven to be faster."""
        if self._reference is None:
            return result
        report = self._report
        with timed(report.seconds, "prove"):
            try:
                ratio = self._ratio(self._prepared.original, result)
            except CannotRunError:  # older than ONNX Runtime runs
                return result
        if ratio.median < _SEEMS_SLOWER and not self._options.is_forced:
            proof = "is" if ratio.verdict == "slower" else "seems"
            report.notes.append(
                f"the result {proof} slower than the model as it was given ({ratio}), which is kept"
            )
            report.chosen = "float"
            return self._prepared.original.clone()
        report.speed, report.interval = ratio.median, (ratio.low, ratio.high)
        return result

    @property
    def _careful(self) -> float:
        """Seconds that a timing may take that has to prove something."""
        return min(_TIMING_SECONDS, self._options.budget / 8)

    def _ratio(self, base: ir.Model, other: ir.Model, briefly: bool = False) -> Ratio:
        assert self._reference is not None
        target = self._options.target
        return measure_speed(
            base,
            other,
            sets=self._reference.sets,
            limit=self._careful * (_BRIEFLY if briefly else 1.0),
            threads=target.threads,
            providers=target.execution_providers,
        )
