"""One set of inputs to time models with: the user's, or of the sizes that such models run at."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir

from onnxopt.core.errors import InvalidInputError
from onnxopt.runtime.inputs.axes import AxisKind
from onnxopt.runtime.inputs.plan import InputPlan, InputSet, plan_inputs
from onnxopt.runtime.inputs.trials import run_plan
from onnxopt.runtime.library import CannotRunError
from onnxopt.runtime.session import Session

# Parity is shown at small sizes; time is spent at these.
_SIZES: Mapping[AxisKind, int] = {
    "batch": 1,
    "sequence": 128,
    "past": 128,
    "height": 224,
    "width": 224,
}


def plan_bench_inputs(
    model: ir.Model,
    data: Any = None,
    *,
    batch: int | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> InputPlan:
    """Plans the inputs, with a batch size where one is asked for.

    Raises:
        InvalidInputError: The batch size is fixed, or data and shapes do not fit the model.
    """
    plan = plan_inputs(model, data, input_shapes=input_shapes)
    if batch is None:
        return plan
    symbols = [symbol for symbol, kind in plan.free.items() if kind == "batch"]
    if not symbols:
        raise InvalidInputError(
            f"--batch {batch}: the model's batch size is fixed by its inputs or by the data; "
            "give --input-shape or leave --batch out"
        )
    return dataclasses.replace(plan, bound={**plan.bound, **dict.fromkeys(symbols, batch)})


def bench_inputs(session: Session, plan: InputPlan) -> InputSet:
    """Inputs that the model runs on.

    Raises:
        InvalidInputError: None can be made, or it runs on none.
    """
    if plan.refusal:
        raise InvalidInputError(f"{plan.refusal} (--inputs)")
    wanted = plan.complete({**plan.wanted(0), **{s: _SIZES[k] for s, k in plan.free.items()}})
    one = plan.build(wanted, 0)
    if not plan.data and one.sizes:
        sizes = ", ".join(f"{symbol}={size}" for symbol, size in one.sizes.items())
        one = dataclasses.replace(one, description=sizes)
    try:
        session.run(one.feeds)
    except CannotRunError:
        try:
            return run_plan(session, dataclasses.replace(plan, sets=1)).sets[0]
        except CannotRunError as error:
            raise InvalidInputError(
                f"the first model does not run: {error.reason}; give --inputs or --input-shape"
            ) from error
    return one


def batch_of(plan: InputPlan, one: InputSet) -> int:
    """Items in a run; 1 if nothing says which dimension is the batch."""
    return next((one.sizes[s] for s, kind in plan.kinds.items() if kind == "batch"), 1)
