"""What a model goes through before anything is taken from it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir

from onnxopt.core.errors import InvalidInputError
from onnxopt.core.pipeline import Observer
from onnxopt.core.report import Report
from onnxopt.graph.naming import name_nodes
from onnxopt.graph.saving import check_target
from onnxopt.optimizing import optimize
from onnxopt.passes.pruning.quantized import quantized_node
from onnxopt.presets import after_pruning, before_pruning
from onnxopt.targets import Target

if TYPE_CHECKING:
    from onnx import ModelProto

PathLike = str | os.PathLike[str]


def prepare(
    model: PathLike | ir.Model | ModelProto,
    output: PathLike | None,
    target: Target,
    observers: Sequence[Observer],
) -> tuple[ir.Model, Report]:
    """A cleaned up model of floats whose nodes all have names, and what was done to it.

    Args:
        model: Path of an ONNX file, or a model in memory, which is left as it is.
        output: Where the result will be written.
        target: Where it will run.
        observers: Told about the passes.

    Raises:
        OnnxOptError: The model cannot be read, is quantized, or nothing can be written there.
    """
    prepared = optimize(model, passes=before_pruning(target), target=target, observers=observers)
    work = prepared.model
    if output is not None:
        check_target(work, output)
    node = quantized_node(work)
    if node is not None:
        name = os.fspath(model) if isinstance(model, (str, os.PathLike)) else "the model"
        raise InvalidInputError(
            f"{name} is quantized already (node {node!r}): prune the float model, then quantize it"
        )
    name_nodes(work)
    return work, prepared.report


def finished(model: ir.Model, target: Target) -> ir.Model:
    """A copy with the passes that come after pruning, as it will be written: this is what is timed.

    Args:
        model: A prepared model, pruned or not.
        target: Where it will run.
    """
    return optimize(model, passes=after_pruning(target), target=target, guard="off").model
