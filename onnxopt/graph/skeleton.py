"""Cuts the weights out of a serialized model before protobuf parses it.

    ModelProto { graph { initializer { dims, name, raw_data } } }
        -> the same message with large raw_data left out, and where each was in the file

Protobuf copies every byte that it parses. Without the weights a model is a few MB, and the weights
can stay in the file as `MappedTensor`s. Only initializers of the main graph are cut; those of
subgraphs and the tensors of Constant nodes stay where they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Final

from onnxopt.graph.wire import (
    LENGTH_DELIMITED,
    VARINT,
    Buffer,
    WireError,
    fields,
    length_delimited,
    read_varint,
)

MODEL_GRAPH: Final = 7
GRAPH_INITIALIZER: Final = 5
_DATA_TYPE, _FLOAT_DATA, _RAW_DATA, _DOUBLE_DATA = 2, 4, 9, 10
_FLOAT, _DOUBLE = 1, 11
# float_data and double_data are packed little-endian numbers: the same bytes as raw_data.
_SAME_AS_RAW = {_FLOAT_DATA: _FLOAT, _DOUBLE_DATA: _DOUBLE}

# Smaller tensors cost less inside the message than as an object of their own.
CUT_BYTES: Final = 2048
_MOST_FIELDS: Final = 1_000_000


@dataclasses.dataclass(frozen=True)
class Cut:
    """Where the data of an initializer is: `length` bytes from `offset` of the file."""

    offset: int
    length: int


@dataclasses.dataclass(frozen=True)
class Skeleton:
    """A serialized model without its large weights.

    Attributes:
        message: The ModelProto.
        cuts: Index among the main graph's initializers to what was cut out there.
    """

    message: bytes
    cuts: dict[int, Cut]


def cut_weights(model: Buffer, passed: Callable[[int, int], None] | None = None) -> Skeleton:
    """Splits a serialized model into its skeleton and the ranges of its large weights.

    Args:
        model: The serialized ModelProto.
        passed: Called with offset and length of each weight when the walk is past it. The system
            may have read far into the weight along with its header.

    Raises:
        WireError: The bytes are no protobuf message.
    """
    pieces: list[Buffer | bytes] = []
    cuts: dict[int, Cut] = {}
    initializers = 0
    for number, kind, begin, start, end in _counted(model, 0, len(model)):
        if number != MODEL_GRAPH or kind != LENGTH_DELIMITED:
            pieces.append(model[begin:end])
            continue
        graph: list[Buffer | bytes] = []
        kept = start  # what is before it is in `graph`; runs of uncut fields are copied at once
        for field, graph_kind, graph_begin, value, stop in _counted(model, start, end):
            if field != GRAPH_INITIALIZER or graph_kind != LENGTH_DELIMITED:
                continue
            if stop - value >= CUT_BYTES:
                tensor, cut = _cut_tensor(model, value, stop)
                if cut is not None:
                    graph.append(model[kept:graph_begin])
                    graph.append(length_delimited(GRAPH_INITIALIZER, len(tensor)) + tensor)
                    kept = stop
                    cuts[initializers] = cut
                    if passed is not None:
                        passed(cut.offset, cut.length)
            initializers += 1
        graph.append(model[kept:end])
        pieces.append(length_delimited(MODEL_GRAPH, sum(map(len, graph))))
        pieces += graph
    return Skeleton(b"".join(pieces), cuts)


def _counted(model: Buffer, start: int, end: int) -> Iterator[tuple[int, int, int, int, int]]:
    """`fields`, with a limit: a few bytes per field would otherwise cost gigabytes once parsed."""
    for count, field in enumerate(fields(model, start, end)):
        if count >= _MOST_FIELDS:
            raise WireError(f"it has more than {_MOST_FIELDS} nodes, values and weights")
        yield field


def _cut_tensor(model: Buffer, start: int, end: int) -> tuple[bytes, Cut | None]:
    """The TensorProto without its data, and the data; no cut if it is not one single range."""
    rest: list[Buffer] = []
    data: list[tuple[int, Cut]] = []
    data_type = 0
    for number, kind, begin, value, stop in fields(model, start, end):
        if kind == LENGTH_DELIMITED and (number == _RAW_DATA or number in _SAME_AS_RAW):
            data.append((number, Cut(value, stop - value)))
            continue
        if number == _DATA_TYPE and kind == VARINT:
            data_type, _ = read_varint(model, value, stop)
        rest.append(model[begin:stop])
    if len(data) != 1:
        return b"", None
    number, cut = data[0]
    if cut.length < CUT_BYTES or _SAME_AS_RAW.get(number, data_type) != data_type:
        return b"", None
    return b"".join(rest), cut
