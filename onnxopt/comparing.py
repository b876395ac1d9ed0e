"""`compare`: whether two models compute the same, and how well both do on labelled data."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import onnx_ir as ir

from onnxopt.core.errors import InvalidInputError

if TYPE_CHECKING:
    from onnxopt.runtime.parity.comparison_result import ComparisonResult

PathLike = str | os.PathLike[str]


def compare(
    first: PathLike | ir.Model,
    second: PathLike | ir.Model,
    *,
    inputs: Any = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    labels: Any = None,
    metrics: str | Callable[..., float] | Sequence[str | Callable[..., float]] = (),
    output: str | None = None,
    tolerance: float | None = None,
    provider: str = "cpu",
    threads: int | None = None,
    optimization: Literal["all", "extended", "basic", "disabled"] = "all",
) -> ComparisonResult:
    """Runs two models on the same inputs and compares every output.

    Args:
        first: The reference, a path or a model in memory.
        second: The other model. It has the same inputs and outputs; types of floats may differ.
        inputs: Data to run on: arrays by input name, a .npz file, a folder of .npz or .npy files, a
            function that yields arrays by name (also as "module:function" or "file.py:function"),
            or several of these. Synthesized at several sizes by default.
        input_shapes: Input name to its shape.
        labels: An array, a .npy or a .npz file: one label for each row of `inputs`.
        metrics: What scores the models against the labels: "top1", "top5", "mse", "mae", "cosine",
            "f1", "module:function", or a function of predictions and labels.
        output: The output to score; the first by default.
        tolerance: Largest error, relative to the output's scale, in place of the tolerance that
            follows from the first model's own noise.
        provider: "cpu" or "cuda".
        threads: Threads inside an operator.
        optimization: ONNX Runtime's own optimization of both models.

    Returns:
        The verdict, with the figures of every output on every input set.

    Raises:
        OnnxOptError: A model cannot be read or run, data do not fit, or the models have different
            inputs or outputs.
    """
    if labels is not None and inputs is None:
        raise InvalidInputError("labels belong to data: give the inputs as well (--inputs)")
    if labels is None and metrics:
        raise InvalidInputError("a metric scores against labels: give them as well (--labels)")
    if labels is None and output is not None:
        raise InvalidInputError("an output is chosen to score against labels (--labels)")
    if tolerance is not None and not tolerance >= 0:
        raise InvalidInputError("the tolerance has to be 0 or more")
    from onnxopt.graph.loading import load_model
    from onnxopt.runtime.inputs.plan import plan_inputs
    from onnxopt.runtime.parity.comparing_models import Comparing
    from onnxopt.runtime.parity.scoring import Scoring

    graph = first if isinstance(first, ir.Model) else load_model(first)
    if not isinstance(second, ir.Model):
        load_model(second)  # its errors are clearer than ONNX Runtime's
    plan = plan_inputs(graph, inputs, input_shapes=input_shapes)
    if plan.refusal:
        raise InvalidInputError(f"{plan.refusal} (--inputs)")
    chosen = (metrics,) if isinstance(metrics, str) or callable(metrics) else tuple(metrics)
    comparing = Comparing(
        first if isinstance(first, ir.Model) else Path(first),
        second if isinstance(second, ir.Model) else Path(second),
        graph,
        plan,
        provider=provider,
        threads=threads,
        optimization=optimization,
        tolerance=tolerance,
        scoring=None if labels is None else Scoring(labels, chosen, output),
    )
    return comparing.run()
