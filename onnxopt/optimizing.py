"""`optimize`: load, rewrite, prove, save. What the command line runs, as one function."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import onnx_ir as ir

from onnxopt.core.errors import InvalidInputError, ParityError, PassFailedError
from onnxopt.core.garbage import patient_garbage_collector
from onnxopt.core.passes import Pass
from onnxopt.core.pipeline import AnyPass, Observer, Repeat
from onnxopt.optimizing_run import PathLike, Result, Run
from onnxopt.presets import chosen_passes
from onnxopt.targets import Target, as_target

if TYPE_CHECKING:
    from onnx import ModelProto

Guard = Literal["off", "parity", "full"]

# A model that runs longer than this hangs, as far as anybody who waits can tell.
PARITY_TIMEOUT = 600.0


def optimize(
    model: PathLike | ir.Model | ModelProto,
    output: PathLike | None = None,
    *,
    passes: str | Sequence[AnyPass | Repeat] | None = None,
    standard_operators: bool = False,
    opset: int | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    inputs: Any = None,
    target: Target | str | None = None,
    guard: Guard = "parity",
    guard_budget: float = 60.0,
    parity_timeout: float | None = None,
    external_data: bool | None = None,
    observers: Sequence[Observer] = (),
    isolated: bool = False,
    prune: str | Mapping[str, Any] | None = None,
    quantize: Literal["int8", "int4", "fp16", "bf16"] | None = None,
    calibration: Any = None,
    max_error: float | None = None,
) -> Result:
    """Optimizes a model, checks that it still computes the same, and saves it.

    Args:
        model: Path, or a model in memory (onnx_ir or onnx protobuf), which is left as it is.
        output: Where to write the result; None to only return it. May be the input's own path.
        passes: Passes as text (`"fold-constants,remove-unused"`) or as objects; by default the
            preset that cleans up and uses the operators that are fast on the target.
        standard_operators: By default the target's own fused operators (domain com.microsoft) are
            used where they pay; True keeps to standard operators, which run everywhere.
        opset: Raise the default domain to this version first.
        input_shapes: Input name to the shape to fix it to.
        inputs: Data for the parity run, by input name or as the path of a .npz file; synthesized
            by default.
        target: Where the result will run, a `Target` or text ("cuda", "cpu:threads=4,isa=avx2");
            by default what the installed ONNX Runtime is built for.
        guard: "parity" runs both models in ONNX Runtime; if they differ, what did it is found and
            undone. "full" also times groups of passes and undoes what is slower. "off" does
            neither.
        guard_budget: Seconds that undoing and timing may take.
        parity_timeout: Seconds after which an isolated parity check counts as one that cannot run,
            600 by default. Not with `prune` or `quantize`.
        external_data: Keep weights in a separate file; by default only over protobuf's 2 GB.
        observers: Told before and after every pass.
        isolated: Run the parity check of files, and onnx's version converter, in a child process:
            a crash of native code is reported and does not end this process. Costs the start of
            one or two Python processes. With `prune` or `quantize` models are compared in memory,
            which is not isolated; the converter is.
        prune: Removes units first and re-fits what is left, as `onnxopt.prune` does: options of it,
            or text as "flops=0.5", "latency=0.7,max-error=0.3" (`pruning.goals`). The report is
            this one's `pruning`; parity is judged from there on.
        quantize: "int8" quantizes the optimized model where that is faster and close enough, as
            `onnxopt.quantize` does; "int4" stores weights as `onnxopt.quantize_weights`, "fp16" and
            "bf16" convert as `onnxopt.convert`. The report is this one's `quantization`.
        calibration: Data for both.
        max_error: Largest relative error of an output that `quantize` may cause; for "int4" there
            is no limit by default.

    Returns:
        The optimized model and the report.

    Raises:
        OnnxOptError: The model cannot be read, a pass failed or the result cannot be written.
        ParityError: The result differs from the original; nothing was written. Its `report`
            attribute holds the report.
    """
    if guard not in get_args(Guard):
        raise InvalidInputError(f"guard is 'off', 'parity' or 'full', not {guard!r}")
    if guard == "off" and inputs is not None:
        raise InvalidInputError("inputs are for the parity run, which guard 'off' leaves out")
    aim = as_target(target)
    if calibration is not None and quantize is None and prune is None:
        raise InvalidInputError(
            "calibration data is for pruning and quantizing; neither is asked for"
        )
    if max_error is not None and quantize is None:
        raise InvalidInputError("max_error is for quantizing, which is not asked for")
    if parity_timeout is not None and not (quantize is None and prune is None):
        raise InvalidInputError(
            "parity_timeout (--parity-timeout) stops the isolated check of a file; with prune or "
            "quantize models are compared in memory, where nothing can stop a run: leave it out"
        )
    if isolated and opset is not None and isinstance(model, (str, os.PathLike)):
        from onnxopt.runtime.opset_trial import try_opset

        try_opset(model, opset)
    options: dict[str, Any] = {
        "passes": passes,
        "standard_operators": standard_operators,
        "opset": opset,
        "input_shapes": input_shapes,
        "inputs": inputs,
        "guard": guard,
        "guard_budget": guard_budget,
    }
    if prune is not None:
        from onnxopt.pruning.optimized import optimize_and_prune

        return optimize_and_prune(
            model,
            output,
            options,
            goal=prune,
            quantize=quantize,
            calibration=calibration,
            max_error=max_error,
            target=aim,
            external_data=external_data,
            observers=observers,
        )
    if quantize is not None:
        from onnxopt.quantizing.optimized import optimize_and_quantize

        return optimize_and_quantize(
            model,
            output,
            options,
            to=quantize,
            calibration=calibration,
            max_error=max_error,
            target=aim,
            external_data=external_data,
            observers=observers,
        )
    run = Run(
        model=model,
        output=output,
        passes=chosen_passes(passes, opset, aim, standard=standard_operators),
        target=aim,
        input_shapes=input_shapes,
        inputs=inputs,
        external_data=external_data,
        observers=observers,
        isolated=isolated,
        parity_timeout=PARITY_TIMEOUT if parity_timeout is None else parity_timeout,
    )
    with patient_garbage_collector():
        if guard == "off":
            return run.plain(check=False)
        if guard == "parity":
            try:
                return run.plain(check=True)
            except (ParityError, PassFailedError) as error:
                if isinstance(error, ParityError) and error.crashed:
                    raise
                # Only now is it worth its cost to find out which rewrite it was.
                return run.guarded("parity", guard_budget)
        return run.guarded("full", guard_budget)


__all__ = ["Guard", "Pass", "Result", "optimize"]
