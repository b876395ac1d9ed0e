"""What a fused operator needs to know of attention beside its canonical form."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from onnxopt.graph import symbolic
from onnxopt.graph.values import dims, opset_version
from onnxopt.passes.fusion.attention.bias import bias_shape
from onnxopt.passes.fusion.attention.canonical import Attention, UnlikeError
from onnxopt.passes.fusion.attention.grouped import Cached, cached, ungrouped
from onnxopt.passes.fusion.attention.heads import Heads
from onnxopt.passes.fusion.attention.lengths import Lengths
from onnxopt.passes.fusion.attention.masks import Window, needed
from onnxopt.passes.fusion.attention.scores import read_attention

_HALVES_AND_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Attention with all that a fused operator needs to know.

    Attributes:
        attention: The canonical form.
        key: Heads of the key, each once.
        value: Heads of the value, each once.
        past: The caches of keys and values; None without them.
        scores: `(batch, heads, sequence, time)`.
        window: The sizes against which masks are proven causal; None if they are not known.
        lengths: Where sizes come from.
    """

    attention: Attention
    key: Heads
    value: Heads
    past: tuple[Cached, Cached] | None
    scores: tuple[int | str | None, ...]
    window: Window | None
    lengths: Lengths

    @property
    def heads(self) -> int:
        """Query heads."""
        return known_size(self.attention.query, 1)

    @property
    def key_heads(self) -> int:
        """Key heads, at most as many."""
        return known_size(self.key, 1)

    @property
    def shares_keys(self) -> bool:
        """True if several query heads use one key head."""
        return self.key_heads != self.heads

    @property
    def new(self) -> tuple[Heads, Heads]:
        """Keys and values of the new tokens alone."""
        return (self.key, self.value) if self.past is None else (self.past[0].new, self.past[1].new)


def plan_of(node: ir.Node, model: ir.Model) -> Plan | None:
    """The plan for the attention that ends at a MatMul, or None where there is none.

    Raises:
        UnlikeError: It is almost attention.
    """
    attention = read_attention(node, model)
    if attention is None:
        return None
    (key, groups), (value, more) = ungrouped(attention.key), ungrouped(attention.value)
    query, shape, own = attention.query.shape, key.shape, value.shape
    if query is None or shape is None or own is None:
        raise UnlikeError("the shapes of query, key and value are not known")
    if not all(isinstance(size, int) for size in (query[1], shape[1], query[3], shape[3], own[3])):
        raise UnlikeError("the number of heads or their size is not known")
    if groups != more or query[1] != known_size(key, 1) * groups or shape[1] != own[1]:
        raise UnlikeError(f"{query[1]} query heads do not share {shape[1]} key heads evenly")
    if attention.query.value.dtype not in _HALVES_AND_FLOATS or shape[3] != query[3]:
        raise UnlikeError("the type or the size of the heads is none that fused operators take")
    caches = cached(key), cached(value)
    past = None if caches[0] is None or caches[1] is None else (caches[0], caches[1])
    scores = (query[0], query[1], query[2], _time(key, past))
    before = 0 if past is None else axis_size(past[0].past, 2)
    window = None if before is None or query[2] is None else Window(before, query[2])
    if window is not None:
        attention = dataclasses.replace(attention, masks=needed(attention.masks, window))
    bias_shape(attention.masks, scores)
    lengths = Lengths(
        query=_sized(attention.query),
        key=_sized(key if past is None else past[0].new),
        past=None if past is None else past[0].past,
        inputs=[one for one in model.graph.inputs if not one.is_initializer()],
        opset=opset_version(node, model),
    )
    return Plan(attention, key, value, past, scores, window, lengths)


def known_size(heads: Heads, axis: int) -> int:
    """A size of heads that `plan_of` found to be a number."""
    shape = heads.shape
    size = None if shape is None else shape[axis]
    assert isinstance(size, int)
    return size


def _time(key: Heads, past: tuple[Cached, Cached] | None) -> int | str | None:
    """Keys in all, by their parts where they have some: outputs are declared with any symbol."""
    if past is None:
        return None if key.shape is None else key.shape[2]
    before, new = axis_size(past[0].past, 2), past[0].new.shape
    if before is None or new is None or new[2] is None:
        return None
    return symbolic.add(before, new[2])


def axis_size(value: ir.Value, axis: int) -> int | str | None:
    """One dimension of a value."""
    shape = dims(value)
    return None if shape is None else shape[axis]


def _sized(heads: Heads) -> tuple[ir.Value, int]:
    """A value with the batch as its first axis, and its axis of time."""
    return heads.value, 1 if heads.split else 2
