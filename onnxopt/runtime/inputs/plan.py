"""Inputs to run a model with: synthesized by what each input means, or the user's own."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt.core.errors import InvalidInputError
from onnxopt.runtime.inputs.axes import (
    AxisKind,
    InputSpec,
    Sizes,
    axis_kinds,
    input_dims,
    is_anonymous,
    symbols_of,
    wanted_sizes,
    with_totals,
)
from onnxopt.runtime.inputs.filling import TRIPS, Variant, fill, is_ragged, make_scene, variants
from onnxopt.runtime.inputs.roles import find_role
from onnxopt.runtime.inputs.signal_lengths import shortest_signals
from onnxopt.runtime.inputs.user_data import UserData, read_user_data
from onnxopt.runtime.library import CannotRunError

DEFAULT_SETS = 3
# Types that arrays can be made of and that ONNX Runtime's bindings take.
FEEDABLE = frozenset(
    {
        *(ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16),
        *(ir.DataType.INT8, ir.DataType.INT16, ir.DataType.INT32, ir.DataType.INT64),
        *(ir.DataType.UINT8, ir.DataType.UINT16, ir.DataType.UINT32, ir.DataType.UINT64),
        *(ir.DataType.BOOL, ir.DataType.STRING),
        *(ir.DataType.FLOAT8E4M3FN, ir.DataType.FLOAT8E5M2),
    }
)
# Larger arrays come from a mistake, and would fill the memory before anything could fail.
_MOST_ELEMENTS = 1 << 29
# Without a free dimension only the values differ from run to run.
_SETS_OF_FIXED_SHAPE = 2


@dataclasses.dataclass(frozen=True)
class InputSet:
    """The inputs of one run.

    Attributes:
        feeds: Input name to array.
        description: Sizes in words, as "batch=2, sequence=5, ragged mask".
        sizes: Size of every symbol; empty for the user's own data.
    """

    feeds: Mapping[str, Any]
    description: str
    sizes: Sizes = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class InputPlan:
    """How to make the inputs of a model for any sizes of its free dimensions.

    Attributes:
        specs: The inputs that have to be fed.
        kinds: Symbol of every free dimension to its meaning.
        seed: Seed of all random values.
        sets: Number of runs.
        bound: Symbols that the user's shapes or data fix.
        data: The user's arrays, which are fed as they are.
        refusal: Why the model's inputs cannot be synthesized; empty if they can.
        shortest: The least size of symbols that count the samples of a signal.
    """

    specs: tuple[InputSpec, ...]
    kinds: Mapping[str, AxisKind]
    seed: int
    sets: int
    bound: Sizes
    data: tuple[UserData, ...] = ()
    refusal: str = ""
    shortest: Sizes = dataclasses.field(default_factory=dict)

    @property
    def free(self) -> dict[str, AxisKind]:
        """Symbols whose size may be chosen, totals left out."""
        return {
            symbol: kind
            for symbol, kind in self.kinds.items()
            if symbol not in self.bound and kind != "total"
        }

    def wanted(self, run: int, *, alike: bool = False) -> dict[str, int]:
        """The sizes to try first in a run."""
        return self.complete(wanted_sizes(self.kinds, run, alike=alike))

    def complete(self, sizes: Sizes) -> dict[str, int]:
        """The sizes with those that are bound, and with totals that agree with both.

        A signal that is too short gets as many frames as it was to have samples.
        """
        long = {
            symbol: size if size >= (least := self.shortest.get(symbol, 0)) else size * least
            for symbol, size in sizes.items()
        }
        return with_totals({**long, **self.bound}, self.kinds) | dict(self.bound)

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Other ways to fill what the user does not give, if a run fails or gives NaN."""
        given = self.data[0].arrays if self.data else {}
        return variants([spec for spec in self.specs if spec.name not in given])

    def build(self, sizes: Sizes, run: int, variant: Variant = "") -> InputSet:
        """Makes the inputs of one run.

        Raises:
            CannotRunError: They are too large to be made.
        """
        given = self.data[run % len(self.data)].arrays if self.data else {}
        for spec in self.specs:
            shape = spec.shape(sizes)
            if spec.name not in given and math.prod(shape) > _MOST_ELEMENTS:
                raise CannotRunError(f"input {spec.name!r} of shape {list(shape)} is too large")
        scene = make_scene(self.specs, self.kinds, sizes, run, self.seed, variant)
        feeds = {
            spec.name: given[spec.name] if spec.name in given else fill(spec, scene)
            for spec in self.specs
        }
        masked = any(s.role.kind in ("mask", "lengths") for s in self.specs if s.name not in given)
        words = [f"{symbol}={sizes[symbol]}" for symbol in self._described()]
        words += ["ragged mask"] if masked and is_ragged(scene) else []
        words += [variant] if variant else []
        if self.data:
            words.insert(0, self.data[run % len(self.data)].source)
        return InputSet(feeds, ", ".join(words) or f"fixed shapes, seed {run}", dict(sizes))

    def _described(self) -> list[str]:
        free = self.free
        named = [symbol for symbol in free if not is_anonymous(symbol)]
        return named + [symbol for symbol in free if is_anonymous(symbol)]


def plan_inputs(
    model: ir.Model,
    data: Any = None,
    *,
    seed: int = 0,
    sets: int = DEFAULT_SETS,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> InputPlan:
    """Finds out how to feed a model.

    Args:
        model: Only its graph inputs and their consumers are read.
        data: The user's own: input name to array, a file, a folder or a function (see `user_data`).
            Inputs that it lacks are synthesized to match.
        seed: Seed of all random values.
        sets: Number of runs, each with other sizes of the free dimensions.
        input_shapes: Shapes to use, by input name.

    Raises:
        InvalidInputError: The data or the shapes do not fit the model's inputs.
    """
    values = [value for value in model.graph.inputs if not value.is_initializer()]
    fixed = _checked_shapes(values, input_shapes or {})
    given = read_user_data(data, {value.name or "": value for value in values})
    provided = set.intersection(*(set(item.arrays) for item in given)) if given else set()
    refusal = next(
        (reason for v in values if v.name not in provided and (reason := _refusal(v))), ""
    )
    specs = tuple(
        InputSpec(
            value.name or "",
            value.dtype or ir.DataType.FLOAT,
            input_dims(value, model, fixed),
            find_role(value, model),
            isinstance(value.type, ir.SequenceType),
        )
        for value in values
    )
    kinds = axis_kinds(specs)
    shapes = dict(fixed)
    for item in given:
        shapes |= {
            name: array.shape
            for name, array in item.arrays.items()
            if isinstance(array, np.ndarray)  # a sequence's items may differ
        }
    bound = _bound_symbols(values, specs, shapes)
    _bind_the_like(bound, kinds)
    if given:
        sets = len(given)
    elif not any(symbol not in bound and kind != "total" for symbol, kind in kinds.items()):
        sets = min(sets, _SETS_OF_FIXED_SHAPE)
    if not given and any(spec.role.kind == "trips" for spec in specs):
        sets = max(sets, len(TRIPS))
    shortest = shortest_signals(specs, model)
    return InputPlan(specs, kinds, seed, sets, bound, given, refusal, shortest)


def synthesize(
    model: ir.Model,
    *,
    seed: int = 0,
    sets: int = DEFAULT_SETS,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> list[InputSet]:
    """Makes inputs for a model without running it.

    The sizes are what such networks usually run with; for a model that bakes others in,
    `trials.run_plan` looks for sizes that work.

    Raises:
        CannotRunError: An input is of a kind that cannot be synthesized.
    """
    plan = plan_inputs(model, seed=seed, sets=sets, input_shapes=input_shapes)
    if plan.refusal:
        raise CannotRunError(plan.refusal)
    return [plan.build(plan.wanted(run), run) for run in range(plan.sets)]


def _refusal(value: ir.Value) -> str:
    """Why nothing can be made up for an input; empty if something can."""
    if isinstance(value.type, (ir.SequenceType, ir.OptionalType)):
        what = "a sequence" if isinstance(value.type, ir.SequenceType) else "optional"
        # Of what holds sequences itself, and of items of unknown rank, nothing can be made up.
        if not isinstance(value.type.elem_type, ir.TensorType) or not value.shape:
            return f"input {value.name!r} is {what}; give data for it"
    elif value.type is None or not isinstance(value.type, ir.TensorType):
        return f"input {value.name!r} has no tensor type"
    if value.shape is None:
        return f"input {value.name!r} has no declared rank; give its shape or data for it"
    if value.dtype not in FEEDABLE:
        return f"input {value.name!r} is of type {value.dtype}, which cannot be fed"
    return ""


def _checked_shapes(
    values: Sequence[ir.Value], shapes: Mapping[str, Sequence[int]]
) -> Mapping[str, Sequence[int]]:
    declared = {value.name: value.shape for value in values}
    for name, shape in shapes.items():
        if name not in declared:
            raise InvalidInputError(
                f"no input is named {name!r}; the inputs are {', '.join(map(str, declared))}"
            )
        known = declared[name]
        if known is not None and len(known) != len(shape):
            raise InvalidInputError(f"input {name!r} has {len(known)} dimensions, not {len(shape)}")
    return shapes


def _bound_symbols(
    values: Sequence[ir.Value], specs: Sequence[InputSpec], shapes: Mapping[str, Sequence[int]]
) -> dict[str, int]:
    """The sizes that shapes give to symbols, for the other inputs that share them."""
    bound: dict[str, int] = {}
    for value, spec in zip(values, specs, strict=True):
        shape = shapes.get(spec.name, ())
        declared = [dim if isinstance(dim, int) else dim.value for dim in value.shape or ()]
        for dims in (declared, spec.dims):
            for dim, size in zip(dims, shape, strict=False):
                if isinstance(dim, str) and symbols_of(dim) == (dim,):
                    bound[dim] = int(size)
    return bound


def _bind_the_like(bound: dict[str, int], kinds: Mapping[str, AxisKind]) -> None:
    """Binds dimensions that nothing names to the only size that others of their kind have."""
    for symbol, kind in kinds.items():
        sizes = {bound[other] for other, its in kinds.items() if its == kind and other in bound}
        if symbol not in bound and len(sizes) == 1 and (kind == "batch" or is_anonymous(symbol)):
            bound[symbol] = sizes.pop()
