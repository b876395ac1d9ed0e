"""Fixing the shapes of graph inputs on the user's word."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import onnx_ir as ir

from onnxopt.core.errors import InvalidInputError
from onnxopt.graph.symbolic import is_named

_LARGEST = 2**63 - 1  # ONNX keeps dimensions as int64


def fix_input_shapes(model: ir.Model, shapes: Mapping[str, Sequence[int]]) -> None:
    """Gives inputs fixed shapes; a symbol that they bind is replaced in all inputs and outputs.

    Texts that exporters write for "unknown", as "?", are no symbols: two of them may differ.

    Args:
        model: Changed in place.
        shapes: Input name to its dimensions.

    Raises:
        InvalidInputError: No such input, a dimension that is none, another rank, a fixed dimension
            that differs, or one symbol bound to two sizes.
    """
    inputs = {value.name: value for value in model.graph.inputs if not value.is_initializer()}
    bound: dict[str, int] = {}
    for name, given in _items(shapes):
        value = inputs.get(name)
        if value is None:
            raise InvalidInputError(
                f"input shapes: no input is named {name!r}; "
                f"the model's inputs are {', '.join(str(n) for n in inputs)}"
            )
        wanted = _dimensions(name, given)
        if value.shape is not None:
            _bind(name, value.shape, wanted, bound)
        value.shape = ir.Shape(wanted)
    for value in [*inputs.values(), *model.graph.outputs]:
        if value.shape is not None:
            value.shape = ir.Shape(
                bound.get(dim.value or "", dim) if not isinstance(dim, int) else dim
                for dim in value.shape
            )


def _items(shapes: Any) -> Iterable[tuple[str, Any]]:
    if not isinstance(shapes, Mapping):
        raise InvalidInputError(
            f"input shapes are dimensions by input name, not {type(shapes).__name__}"
        )
    return shapes.items()


def _dimensions(name: str, given: Any) -> tuple[int, ...]:
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise InvalidInputError(
            f"input shape of {name!r}: a sequence of whole numbers is needed, not {given!r}"
        )
    return tuple(_dimension(name, item) for item in given)


def _dimension(name: str, item: Any) -> int:
    try:
        size = operator.index(item)
    except TypeError:
        size = -1
    if isinstance(item, bool) or not 0 <= size <= _LARGEST:
        shown = repr(item)
        raise InvalidInputError(
            f"input shape of {name!r}: {shown if len(shown) < 40 else shown[:37] + '...'} is no "
            "dimension; a whole number from 0 to 2^63 - 1 is needed"
        )
    return size


def _bind(name: str, declared: ir.Shape, wanted: Sequence[int], bound: dict[str, int]) -> None:
    """Checks a shape against the declared one and notes what becomes of its symbols."""
    if len(declared) != len(wanted):
        raise InvalidInputError(
            f"input shape of {name!r}: it has {len(declared)} dimensions {declared}, "
            f"not {len(wanted)}"
        )
    for old, new in zip(declared, wanted, strict=True):
        if isinstance(old, int):
            if old not in (new, -1):  # -1 is what some exporters write for a free dimension
                raise InvalidInputError(
                    f"input shape of {name!r}: it is fixed to {declared} in the model; "
                    f"{tuple(wanted)} does not fit"
                )
        elif is_named(old.value) and bound.setdefault(str(old.value), new) != new:
            raise InvalidInputError(
                f"input shape of {name!r}: {old.value!r} would be {bound[str(old.value)]} and {new}"
            )
