"""A model cut behind the values that are observed, into pieces that fit the memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import onnx_ir as ir

from onnxopt.core.walking import used_values
from onnxopt.runtime.diagnosis.probing import chunks

# ONNX Runtime keeps weights a second time, in the layout that its kernels want.
_COPIES = 2


@dataclasses.dataclass(frozen=True)
class Piece:
    """What one run computes.

    Attributes:
        names: Values to observe.
        before: A value of the node that the next piece starts with; "" for the last piece.
    """

    names: tuple[str, ...]
    before: str


def cut_into_pieces(model: ir.Model, needs: Mapping[str, int], max_memory: int) -> list[Piece]:
    """Cuts right before the first reader of the first value of every next piece.

    Args:
        model: The model.
        needs: Values of the main graph to observe, and the bytes that each takes.
        max_memory: Bytes for the values and weights of a piece; one value at least is in each.
    """
    if not needs:
        return []
    nodes = list(model.graph)
    readers: dict[str, int] = {}
    weights = [0]  # bytes of the weights that the nodes before are the first to read
    seen: set[ir.Value] = set()
    for index, node in enumerate(nodes):
        size = 0
        for value in used_values(node):
            readers.setdefault(value.name or "", index)
            if value.const_value is not None and value not in seen:
                seen.add(value)
                size += int(value.const_value.nbytes)
        weights.append(weights[-1] + size)
    places = {name: readers.get(name, len(nodes)) for name in needs}
    names = sorted(places, key=places.__getitem__)
    sizes, last = {}, 0
    for name in names:
        sizes[name] = needs[name] + _COPIES * (weights[places[name]] - weights[last])
        last = places[name]
    parts = list(chunks(names, sizes, max_memory))
    starts = [nodes[places[part[0]]].outputs[0].name or "" for part in parts[1:]]
    return [Piece(tuple(p), b) for p, b in zip(parts, [*starts, ""], strict=True) if p]
