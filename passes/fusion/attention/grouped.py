"""Keys and values of grouped-query attention, and the cache of the tokens before.

    Reshape(Expand(Unsqueeze(x, 2)))    [batch, keys, time, size] -> [batch, heads, time, size]

repeats every key head for the query heads that share it; Tile and a Concat of the same value do so
too. Behind it, `Concat(past, new)` on the axis of time appends to a cache.
"""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from onnxopt.graph.values import constant_ints, dims, int_attribute, rank
from onnxopt.passes.cleanup.single_node import producer_of
from onnxopt.passes.fusion.attention.heads import Heads


@dataclasses.dataclass(frozen=True)
class Cached:
    """Keys or values with what came before.

    Attributes:
        past: `[batch, heads, past, size]`.
        new: Heads of the new tokens.
        present: Both one after the other.
    """

    past: ir.Value
    new: Heads
    present: ir.Value


def ungrouped(heads: Heads) -> tuple[Heads, int]:
    """The heads before each was repeated, and how often: 1 for heads that are not repeated."""
    shape = heads.shape
    if heads.split or shape is None or not isinstance(shape[1], int):
        return heads, 1
    reshape = producer_of(heads.value, "Reshape")
    if reshape is None:
        return heads, 1
    repeated = reshape.inputs[0]
    source = _one_per_group(repeated)
    wide, narrow = dims(repeated), dims(source)
    if wide is None or narrow is None or len(wide) != 5 or len(narrow) != 5:
        return heads, 1
    keys, times = wide[1], wide[2]
    if not (isinstance(keys, int) and isinstance(times, int)) or keys * times != shape[1]:
        return heads, 1
    if narrow[:3] != (wide[0], keys, 1) or narrow[3:] != wide[3:] or wide[3:] != shape[2:]:
        return heads, 1
    lifted = producer_of(source, "Unsqueeze", "Reshape")
    below = None if lifted is None else lifted.inputs[0]
    if lifted is None or below is None or rank(below) != 4:
        return heads, 1
    # What follows an Unsqueeze needs no proof from shapes: outputs may be declared with others.
    if lifted.op_type == "Reshape" and dims(below) != (wide[0], keys, *wide[3:]):
        return heads, 1
    return Heads(below), times


def cached(heads: Heads) -> Cached | None:
    """The cache and the new tokens that were concatenated, or None."""
    concat = None if heads.split else producer_of(heads.value, "Concat")
    if concat is None or len(concat.inputs) != 2 or rank(heads.value) != 4:
        return None
    past, new = concat.inputs
    if int_attribute(concat, "axis", 0) % 4 != 2 or past is None or new is None:
        return None
    if not past.is_graph_input() or rank(new) != 4:
        return None
    return Cached(past, Heads(new), heads.value)


def _one_per_group(value: ir.Value | None) -> ir.Value | None:
    """What is repeated on the third of five axes."""
    node = producer_of(value, "Expand", "Tile", "Concat")
    if node is None or rank(value) != 5:
        return None
    if node.op_type == "Tile":
        times = constant_ints(node.inputs[1])
        return node.inputs[0] if times and times[:2] + times[3:] == (1, 1, 1, 1) else None
    if node.op_type == "Concat":
        same = int_attribute(node, "axis", 0) % 5 == 2 and len(set(node.inputs)) == 1
        return node.inputs[0] if same else None
    return node.inputs[0]
