"""What each free dimension of the inputs means, and the sizes it takes in the runs.

A free dimension has a symbol: the name it is declared with, or one made of the input and the axis.
Equal symbols get equal sizes, and so do all batch dimensions.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Literal

import onnx_ir as ir

from onnxopt.runtime.inputs.dimensions import evaluate, free_symbols, is_placeholder
from onnxopt.runtime.inputs.feature_sizes import feature_sizes
from onnxopt.runtime.inputs.roles import Role

AxisKind = Literal["batch", "sequence", "past", "total", "height", "width"]
Dim = int | str
Sizes = Mapping[str, int]

# The size of each kind in the first, second and third run. Heights and widths are multiples of 32,
# which is what the strides of most networks multiply to, and differ, so that a swap is seen.
# A decoder goes on with a past, and has none when it reads a prompt.
WANTED: dict[AxisKind, tuple[int, int, int]] = {
    "batch": (1, 2, 3),
    "sequence": (8, 5, 13),
    "past": (4, 0, 6),
    "height": (64, 96, 160),
    "width": (96, 160, 64),
}
_NAMES: tuple[tuple[re.Pattern[str], AxisKind], ...] = (
    (re.compile(r"total", re.I), "total"),
    (re.compile(r"past|cache", re.I), "past"),
    (re.compile(r"batch|^(n|b|bs|nb)$", re.I), "batch"),
    (re.compile(r"height|^h$|rows", re.I), "height"),
    (re.compile(r"width|^w$|cols", re.I), "width"),
    (re.compile(r"seq|len|time|frame|step|token|sample|char|^[tls]$", re.I), "sequence"),
)


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """An input that has to be fed.

    Attributes:
        name: Its name.
        dtype: Element type.
        dims: Sizes, symbols, or expressions over symbols.
        role: What it means.
        sequence: True for a sequence of such tensors.
    """

    name: str
    dtype: ir.DataType
    dims: tuple[Dim, ...]
    role: Role
    sequence: bool = False

    def shape(self, sizes: Sizes) -> tuple[int, ...]:
        """The shape for these sizes of the symbols."""
        found = [dim if isinstance(dim, int) else evaluate(dim, sizes) for dim in self.dims]
        return tuple(1 if size is None else max(size, 0) for size in found)


def input_dims(
    value: ir.Value, model: ir.Model, fixed: Mapping[str, Sequence[int]]
) -> tuple[Dim, ...]:
    """An input's dimensions: fixed by the user, declared, needed by its consumers, or a symbol."""
    name = value.name or ""
    if name in fixed:
        return tuple(fixed[name])
    if value.shape is None:
        return ()
    needed = feature_sizes(value, model)
    dims: list[Dim] = []
    for axis, dim in enumerate(value.shape):
        text = None if isinstance(dim, int) else dim.value
        if isinstance(dim, int) and dim > 0:
            dims.append(dim)
        elif axis in needed:
            dims.append(needed[axis])
        elif text is None or is_placeholder(text):
            dims.append(anonymous(name, axis))
        else:
            dims.append(text)
    return tuple(dims)


def anonymous(name: str, axis: int) -> str:
    """The symbol of a dimension that has no name."""
    return f"{name}[{axis}]"


def is_anonymous(symbol: str) -> bool:
    """True if the symbol was made for a dimension without a name."""
    return symbol.endswith("]")


def axis_kinds(specs: Sequence[InputSpec]) -> dict[str, AxisKind]:
    """Symbol to what it means; the meaning of its name goes before that of its place."""
    kinds: dict[str, AxisKind] = {}
    for spec in specs:
        batch = ""
        for axis, dim in enumerate(spec.dims):
            if isinstance(dim, int):
                continue
            for symbol in symbols_of(dim):
                named = None if is_anonymous(symbol) else _kind_by_name(symbol)
                if named == "batch" and batch not in ("", symbol):
                    named = None  # [batch, N]: of two only the first is one
                kinds.setdefault(symbol, named or _kind_by_place(spec, axis))
                batch = symbol if kinds[symbol] == "batch" and not batch else batch
    # Only a decoder with a cache has a total that is more than its sequence.
    if "past" not in kinds.values():
        kinds = {s: "sequence" if kind == "total" else kind for s, kind in kinds.items()}
    return kinds


def symbols_of(dim: str) -> tuple[str, ...]:
    """The symbols that a dimension depends on."""
    return (dim,) if is_anonymous(dim) else free_symbols(dim)


def wanted_sizes(kinds: Mapping[str, AxisKind], run: int, *, alike: bool = False) -> dict[str, int]:
    """The sizes of all symbols in one run.

    Args:
        kinds: Meaning of each symbol.
        run: Number of the run.
        alike: Give all sequences one size; by default those with names of their own differ.
    """
    sizes: dict[str, int] = {}
    named: dict[AxisKind, list[str]] = {}
    for symbol, kind in kinds.items():
        if kind == "total":
            continue
        order = 0
        if kind == "sequence" and not alike and not is_anonymous(symbol):
            names = named.setdefault(kind, [])
            names.append(symbol)
            order = len(names) - 1
        choice = WANTED[kind]
        sizes[symbol] = choice[(run + order) % len(choice)]
    return with_totals(sizes, kinds)


def with_totals(sizes: Mapping[str, int], kinds: Mapping[str, AxisKind]) -> dict[str, int]:
    """Adds the totals: the past plus the sequence."""
    result = dict(sizes)
    past = [size for symbol, size in sizes.items() if kinds.get(symbol) == "past"]
    sequence = [size for symbol, size in sizes.items() if kinds.get(symbol) == "sequence"]
    for symbol, kind in kinds.items():
        if kind == "total":
            result[symbol] = (past[0] if past else 0) + (sequence[0] if sequence else 1)
    return result


def _kind_by_name(symbol: str) -> AxisKind | None:
    return next((kind for pattern, kind in _NAMES if pattern.search(symbol)), None)


def _kind_by_place(spec: InputSpec, axis: int) -> AxisKind:
    rank = len(spec.dims)
    if spec.role.kind == "past":
        # [batch, heads, past, size] or [2, batch, heads, past, size]
        return "batch" if axis == rank - 4 else "past"
    if spec.role.kind == "state" and rank == 3:
        return "batch" if axis == 1 else "sequence"  # [layers * directions, batch, size]
    if axis == 0 and (rank > 1 or spec.role.kind in ("lengths", "text", "integers", "condition")):
        return "batch"
    if spec.role.kind == "image" and rank >= 4:
        channels_last = spec.dims[-1] in (1, 3, 4) and spec.dims[1] not in (1, 3, 4)
        height, width = (rank - 3, rank - 2) if channels_last else (rank - 2, rank - 1)
        if axis == height:
            return "height"
        if axis == width:
            return "width"
    return "sequence"
