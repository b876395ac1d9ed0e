"""`benchmark`: latency, throughput, memory and load time of models, and which one is faster."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from onnxopt.core.errors import InvalidInputError

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnxopt.runtime.measuring.benchmark_result import BenchmarkResult

Optimization = Literal["all", "extended", "basic", "disabled"]


def benchmark(
    *models: str | os.PathLike[str] | ir.Model,
    inputs: Any = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    batch: int | None = None,
    provider: str = "cpu",
    threads: int | None = None,
    optimization: Optimization = "all",
    disabled_optimizers: Sequence[str] = (),
    saved_options: bool = False,
    seconds: float = 5.0,
    sessions: int = 5,
    profile: bool = False,
    load: bool = True,
) -> BenchmarkResult:
    """Measures models in interleaved rounds, each in several sessions.

    Args:
        models: Paths, or models in memory; all take the same inputs. Ratios are to the first.
        inputs: Data to run on (see `onnxopt.optimize`); by default synthesized: a batch of 1, 128
            tokens, 224 pixels, or what the model runs at.
        input_shapes: Input name to its shape.
        batch: Size of the batch, where it is free.
        provider: "cpu" or "cuda".
        threads: Threads inside an operator; ONNX Runtime's choice by default.
        optimization: How far ONNX Runtime rewrites the graphs on load.
        disabled_optimizers: Names of ONNX Runtime's optimizers to leave out.
        saved_options: Load every model with the two that `optimize` with guard "full" saved in it.
        seconds: How long to measure all of them together, loading left out; up to four times as
            long while an interval is wider than 3 % to each side.
        sessions: Sessions of each model; large and slow models get fewer.
        profile: Add the time by type of operator and by node.
        load: Add load time and peak memory, from new processes.

    Returns:
        Figures of each model, and of all but the first the ratio with its 95 % interval.

    Raises:
        OnnxOptError: A model cannot be read or run, or something asked for does not fit.
    """
    if not models:
        raise InvalidInputError("no model to measure: give at least one")
    if seconds <= 0 or sessions < 1:
        raise InvalidInputError("seconds and sessions have to be more than 0")
    from onnxopt.runtime.measuring.benchmark_models import benchmark_models
    from onnxopt.runtime.measuring.benchmark_settings import BenchmarkSettings

    settings = BenchmarkSettings(
        provider=provider,
        threads=threads,
        optimization=optimization,
        disabled_optimizers=tuple(disabled_optimizers),
        saved_options=saved_options,
        seconds=seconds,
        sessions=sessions,
        profile=profile,
        load=load,
    )
    return benchmark_models(models, settings, inputs=inputs, batch=batch, input_shapes=input_shapes)
