"""Fixing the shapes of graph inputs on the user's word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from onnxopt.core.errors import InvalidInputError


def fix_input_shapes(model: ir.Model, shapes: Mapping[str, Sequence[int]]) -> None:
    """Gives inputs fixed shapes; a symbol that they bind is replaced in all inputs and outputs.

    Args:
        model: Changed in place.
        shapes: Input name to its dimensions.

    Raises:
        InvalidInputError: No such input, another rank, a fixed dimension that differs, or one
            symbol bound to two sizes.
    """
    inputs = {value.name: value for value in model.graph.inputs if not value.is_initializer()}
    bound: dict[str, int] = {}
    for name, wanted in shapes.items():
        value = inputs.get(name)
        if value is None:
            raise InvalidInputError(
                f"--input-shape: no input is named {name!r}; "
                f"the model's inputs are {', '.join(str(n) for n in inputs)}"
            )
        declared = value.shape
        if declared is not None:
            if len(declared) != len(wanted):
                raise InvalidInputError(
                    f"--input-shape: {name!r} has {len(declared)} dimensions {declared}, "
                    f"not {len(wanted)}"
                )
            for old, new in zip(declared, wanted, strict=True):
                if isinstance(old, int) and old != new:
                    raise InvalidInputError(
                        f"--input-shape: {name!r} is fixed to {declared} in the model; "
                        f"{tuple(wanted)} does not fit"
                    )
                symbol = None if isinstance(old, int) else old.value
                if symbol is not None and bound.setdefault(symbol, new) != new:
                    raise InvalidInputError(
                        f"--input-shape: {symbol!r} would be {bound[symbol]} and {new}"
                    )
        value.shape = ir.Shape(wanted)
    for value in [*inputs.values(), *model.graph.outputs]:
        if value.shape is not None:
            value.shape = ir.Shape(
                bound.get(dim.value or "", dim) if not isinstance(dim, int) else dim
                for dim in value.shape
            )
