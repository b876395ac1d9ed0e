"""`quantize_weights`: 4- and 8-bit weights for models that decode tokens, as one function."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import onnx_ir as ir

from onnxopt.core.errors import InvalidInputError
from onnxopt.core.passes import Refusal
from onnxopt.core.timing import timed
from onnxopt.graph.accepting import accepted_model
from onnxopt.graph.blocks import BITS, BlockEncoding
from onnxopt.graph.cost import weight_bytes
from onnxopt.graph.lazy_weights import QuantizedWeight
from onnxopt.graph.loading import load_model
from onnxopt.graph.saving import check_target, save_model
from onnxopt.passes.quantization.weight_only import (
    SMALLEST_WEIGHT,
    STANDARD_OPSET,
    Format,
    excluded,
    replace_weights,
    round_to_nearest,
)
from onnxopt.passes.quantization.weight_sites import RULE, WeightSite, find_sites
from onnxopt.weight_only.block_sizes import SIZES
from onnxopt.weight_only.choosing import (
    choose_bits,
    choose_blocks,
    is_named,
    overridden,
    unmatched,
)
from onnxopt.weight_only.report import WeightRecord, WeightReport

if TYPE_CHECKING:
    from onnx import ModelProto

    from onnxopt.graph.block_weights import BlockWeights
    from onnxopt.weight_only.solving import Solver

Algorithm = Literal["rtn", "mse", "hqq", "gptq", "awq"]
PathLike = str | os.PathLike[str]
Progress = Callable[[str, int, int], None]
Accept = Callable[[ir.Model, WeightReport], None]

ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)
DEFAULT_MEMORY = 1 << 30
_FROM_DATA = ("gptq", "awq")
_MOST_LEVEL = 4  # of accuracy


@dataclasses.dataclass(frozen=True)
class WeightResult:
    """A model with quantized weights, and the record of how it came about.

    Attributes:
        model: The model; its integers are computed when they are read.
        report: What became of every weight.
    """

    model: ir.Model
    report: WeightReport


def quantize_weights(
    model: PathLike | ir.Model | ModelProto,
    output: PathLike | None = None,
    *,
    bits: int | Literal["auto"] = 4,
    average_bits: float = 5.0,
    block_size: int | Literal["auto"] = 32,
    symmetric: bool = False,
    algorithm: Algorithm = "rtn",
    act_order: bool = True,
    format: Format = "operators",
    accuracy_level: int = 4,
    overrides: Mapping[str, int] | None = None,
    exclude: Sequence[str] = (),
    smallest: int = SMALLEST_WEIGHT,
    calibration: Any = None,
    tokenizer: PathLike | None = None,
    samples: int | None = 128,
    threads: int | None = None,
    max_memory: int = DEFAULT_MEMORY,
    external_data: bool | None = None,
    accept: Accept | None = None,
    progress: Progress | None = None,
) -> WeightResult:
    """Stores weights of MatMul, Gemm and Gather in 4 or 8 bits.

    Args:
        model: Path of an ONNX file, or a model in memory, which is left as it is.
        output: Where to write the result; None to only return it.
        bits: 4, 8, or "auto": 8 for the weights whose rounding costs the output most.
        average_bits: What "auto" may spend per weight.
        block_size: Weights that share a scale: a power of two from 16 on, 0 for a whole channel, or
            "auto": for each shape the smallest of 32, 64 and 128 that is as fast here as any.
        symmetric: No zero points.
        algorithm: "rtn", "mse" and "hqq" look at the weights alone; "gptq" and "awq" at data, too.
        act_order: GPTQ rounds the most important rows first.
        format: "operators" of com.microsoft, or "standard" ones of opset 21, to which the model is
            raised.
        accuracy_level: What MatMulNBits may compute in: 0 float32, 4 int8 activations.
        overrides: Pattern of names to the bits of these weights.
        exclude: Patterns of names to leave alone.
        smallest: Weights of fewer elements are left alone.
        calibration: Data (see `calibration.data`), for "gptq", "awq" and bits "auto".
        tokenizer: A folder with a tokenizer.json, for text.
        samples: Use no more input sets than this.
        threads: What "auto" measures block sizes with; ONNX Runtime's choice by default.
        max_memory: Bytes for activations and what is kept of them.
        external_data: Keep weights in a separate file; by default only over protobuf's 2 GB.
        accept: Called with the result and its report before it is written; what it raises ends the
            run.
        progress: Told what is done, a weight for example, how many steps of it, and of how many.

    Raises:
        OnnxOptError: The model cannot be read, an option does not fit, or the result cannot be
            written; nothing half-written is left.
    """
    if algorithm not in ALGORITHMS:
        raise InvalidInputError(f"the algorithms are {', '.join(ALGORITHMS)}, not {algorithm!r}")
    if format not in get_args(Format):
        raise InvalidInputError(f"the formats are {', '.join(get_args(Format))}, not {format!r}")
    if not 0 <= accuracy_level <= _MOST_LEVEL:
        raise InvalidInputError(
            f"accuracy levels are from 0 to {_MOST_LEVEL}, not {accuracy_level}"
        )
    if calibration is None and algorithm in _FROM_DATA:
        raise InvalidInputError(
            f"algorithm {algorithm} needs calibration data (a few texts or samples); mse does not"
        )
    if calibration is None and bits == "auto":
        raise InvalidInputError("bits auto needs calibration data: it measures what rounding costs")
    if bits == "auto" and not min(BITS) <= average_bits <= max(BITS):
        raise InvalidInputError(
            f"weights have {min(BITS)} or {max(BITS)} bits, an average of {average_bits} is not "
            "possible"
        )
    report = WeightReport(source=os.fspath(model) if isinstance(model, (str, os.PathLike)) else "")
    with timed(report.seconds, "load"):
        work = (
            load_model(model)
            if isinstance(model, (str, os.PathLike))
            else accepted_model(model).clone()
        )
        if output is not None:
            check_target(work, output)
        if format == "standard" and work.opset_imports.get("", 1) < STANDARD_OPSET:
            from onnxopt.passes.cleanup.opset import ConvertOpset

            ConvertOpset(version=STANDARD_OPSET)(work)
    report.bytes_before = weight_bytes(work)
    encoding = BlockEncoding(
        4 if bits == "auto" else bits,
        SIZES[0] if block_size == "auto" else block_size,
        symmetric,
        "mse" if algorithm == "gptq" or algorithm == "awq" else algorithm,
    )
    sites, report.refusals = find_sites(work, smallest)
    report.notes += [
        f"no weight that can be quantized is named {pattern!r}"
        for pattern in unmatched(sites, (*exclude, *(overrides or {})))
    ]
    uses = Counter(site.name for site in sites)
    report.notes += [
        f"{name!r} is read in {count} ways (a table and a product, say): it is stored once for each"
        for name, count in uses.items()
        if count > 1
    ]
    encodings = {}
    for site in sites:
        if excluded(site.name, exclude):
            report.refusals.append(Refusal(RULE, site.name, "it is excluded"))
        else:
            encodings[site] = overridden(site, encoding, overrides or {})
    if block_size == "auto":
        with timed(report.seconds, "block sizes"):
            report.notes += choose_blocks(encodings, accuracy_level, threads)
    computes: dict[WeightSite, Callable[[], BlockWeights]] = {}
    with timed(report.seconds, "calibrate"):
        if encodings and calibration is not None and (algorithm in _FROM_DATA or bits == "auto"):
            fixed = {s for s in encodings if is_named(s, overrides or {})}
            solver = _solver(
                work, encodings, calibration, tokenizer, samples, max_memory, report, progress
            )
            if solver.idle:
                report.notes.append(
                    "nothing to calibrate: no weight is multiplied with a value of the main "
                    "graph; all are rounded without data"
                )
            if bits == "auto":
                choose_bits(solver, encodings, fixed, average_bits)
            if algorithm == "gptq":
                computes = solver.gptq(act_order=act_order)
            elif algorithm == "awq":
                computes = solver.awq()
    done, refused = replace_weights(
        work,
        encodings,
        format=format,
        accuracy_level=accuracy_level,
        solver=lambda site, wanted: computes.get(site) or round_to_nearest(site, wanted),
    )
    report.refusals += refused
    if not done:
        report.notes.append(
            "nothing was quantized: there is no float weight of MatMul, Gemm or Gather left to take"
        )
    report.bytes_after = weight_bytes(work)
    if accept is not None:
        accept(work, report)
    if output is not None:
        with timed(report.seconds, "save"), _told(done, progress):
            save_model(work, output, external_data=external_data)
        report.output = os.fspath(Path(output))
    for site, weight in done.items():
        found = weight.outcome
        report.weights.append(
            WeightRecord(
                site.name,
                site.kind,
                site.shape,
                weight.encoding.bits,
                weight.encoding.block_for(site.length) if block_size else 0,
                algorithm if site in computes or algorithm not in _FROM_DATA else "mse",
                None if found is None else found.relative_error,
                int(site.tensor.nbytes),
                weight.nbytes,
            )
        )
    return WeightResult(work, report)


@contextmanager
def _told(
    weights: Mapping[WeightSite, QuantizedWeight], progress: Progress | None
) -> Iterator[None]:
    """Has every weight reported that is computed meanwhile, which is when it is written."""
    seen: set[str] = set()

    def tell(name: str) -> None:
        if progress is not None and name not in seen:  # small ones are computed for each part
            seen.add(name)
            progress(name, len(seen), len(weights))

    for site, weight in weights.items():
        weight.computing = partial(tell, site.name)
    yield
    for weight in weights.values():
        weight.computing = None


def _solver(
    model: ir.Model,
    encodings: Mapping[WeightSite, BlockEncoding],
    calibration: Any,
    tokenizer: PathLike | None,
    samples: int | None,
    max_memory: int,
    report: WeightReport,
    progress: Progress | None,
) -> Solver:
    from onnxopt.calibration.data import open_data
    from onnxopt.graph.inference import infer_model
    from onnxopt.weight_only.solving import Solver

    infer_model(model)
    found = open_data(calibration, model, tokenizer=tokenizer, limit=samples)
    report.notes += found.notes
    told = None if progress is None else lambda done, all_: progress("calibrate", done, all_)
    return Solver(model, encodings, found, max_memory=max_memory, progress=told)
