"""What a model goes through before it is quantized."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from onnxopt.core.errors import InvalidInputError
from onnxopt.core.pipeline import Observer
from onnxopt.core.report import Report
from onnxopt.graph.accepting import accepted_model
from onnxopt.graph.loading import load_model
from onnxopt.graph.naming import name_nodes
from onnxopt.optimizing import optimize
from onnxopt.passes.precision import ConvertToFloat32
from onnxopt.quantizing.opsets import raise_opset
from onnxopt.quantizing.options import QuantizeOptions
from onnxopt.runtime.library import load_runtime

if TYPE_CHECKING:
    from onnx import ModelProto

# ONNX Runtime runs no older ones.
_FIRST_RUNNABLE, _RUNNABLE = 7, 13


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A model on its way.

    Attributes:
        original: As it was given.
        best: Optimized: what is written if nothing pays.
        work: What is quantized: of float32 and a new enough opset.
        report: What `optimize` did.
        notes: What the user should know.
    """

    original: ir.Model
    best: ir.Model
    work: ir.Model
    report: Report
    notes: Sequence[str]


def check_provider(options: QuantizeOptions) -> list[str]:
    """Makes sure that the target can be measured; else returns what the user should know.

    Raises:
        InvalidInputError: It cannot, and no form was asked for in any case.
        MissingDependencyError: ONNX Runtime is not installed.
    """
    wanted = options.target.execution_providers[0]
    if wanted in load_runtime().get_available_providers():
        return []
    missing = f"the installed ONNX Runtime has no {wanted}"
    if not options.is_forced:
        raise InvalidInputError(
            f"{missing}, so nothing can be measured for this target; use onnxopt[gpu] where it is, "
            "or --mode static --force to write that form in any case"
        )
    return [f"{missing}: error and speed are those on the CPU"]


def prepare(
    model: str | os.PathLike[str] | ir.Model | ModelProto,
    options: QuantizeOptions,
    preparation: Mapping[str, Any],
    *,
    observers: Sequence[Observer] = (),
) -> Prepared:
    """Optimizes a model and brings it into the form that quantization works on.

    Args:
        model: A path, or a model that is left as it is.
        options: What the user asks for.
        preparation: Options of `optimize`.
        observers: Told about passes.

    Raises:
        OnnxOptError: It cannot be read, or optimizing breaks it.
    """
    original = load_model(model) if isinstance(model, (str, os.PathLike)) else accepted_model(model)
    opset = original.opset_imports.get("", _RUNNABLE)
    is_old = opset < _FIRST_RUNNABLE
    chosen = {**preparation, "target": options.target, "observers": observers}
    if is_old and chosen.get("opset") is None:
        chosen["opset"] = _RUNNABLE
    found = optimize(model, **chosen)
    best = found.model
    name_nodes(best)
    work = best.clone()
    notes = []
    if is_old:
        notes.append(f"opset {opset} is older than ONNX Runtime runs: raised to {_RUNNABLE}")
    if options.target.provider == "cpu" and ConvertToFloat32()(work).modified:
        notes.append("a float16 model: quantized from float32, which CPUs compute faster")
    before = work.opset_imports.get("", 1)
    notes += raise_opset(work, options.mode)
    if work.opset_imports.get("", 1) != before:
        # Conversion leaves constants behind that were attributes.
        work = optimize(work, target=options.target, guard="off").model
        name_nodes(work)
    return Prepared(original, best, work, found.report, notes)
