"""What each graph input means: token ids, a mask, positions, past keys, an image, a state.

Read from the operators that consume it (the table that ids index bounds them), then from its name,
its type and its rank.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Literal

import numpy as np
import onnx_ir as ir

from onnxopt.runtime.inputs.consumers import Consumer, consumers
from onnxopt.runtime.inputs.integer_ranges import integer_range

Kind = Literal[
    "tokens", "segments", "positions", "mask", "past", "state", "lengths", "rate", "count",
    "trips", "condition", "image", "signal", "text", "bytes", "integers",
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Role:
    """The meaning of an input.

    Attributes:
        kind: What it is.
        bound: Integers are below it; None if nothing bounds them.
        words: Texts that the model knows.
        range: Smallest and largest number to feed; None if the model does not say.
    """

    kind: Kind
    bound: int | None = None
    words: tuple[str, ...] = ()
    range: tuple[float, float] | None = None


_INTEGERS = frozenset(
    {
        *(ir.DataType.INT8, ir.DataType.INT16, ir.DataType.INT32, ir.DataType.INT64),
        *(ir.DataType.UINT8, ir.DataType.UINT16, ir.DataType.UINT32, ir.DataType.UINT64),
    }
)
# The hidden states of an encoder are a sequence, the hidden state of a recurrent network is none.
_STATE_NAME = re.compile(
    r"(^|[._/])(h|c|hx|cx)[0n]?$|[hc]_?(0|in|n)$|(?<!hidden_)state|hidden(?!_states)|cache", re.I
)
_PAST_NAME = re.compile(r"past|cache_(k|v)|(^|[._])kv|key_cache|value_cache", re.I)
_RATE_NAME = re.compile(r"^sr$|samp\w*_?rate", re.I)
_SEGMENT_NAME = re.compile(r"token_?type|segment", re.I)
_LENGTH_NAME = re.compile(r"len(gth)?s?($|_)|_lens?$|num_|n_frames", re.I)
_CHANNELS = (1, 3, 4)


def find_role(value: ir.Value, model: ir.Model) -> Role:
    """Finds out what an input means."""
    name, dtype = value.name or "", value.dtype
    if dtype == ir.DataType.STRING:
        return Role("text", words=_known_words(value, model))
    reached = consumers(value, model)
    if dtype == ir.DataType.BOOL:
        return Role("mask" if "mask" in name.lower() else "condition")
    if dtype in _INTEGERS:
        return _integer_role(value, reached)
    return Role(_float_kind(value, reached), range=_quantized_range(reached))


def _integer_role(value: ir.Value, reached: list[Consumer]) -> Role:
    name = (value.name or "").lower()
    rank = len(value.shape) if value.shape is not None else 1
    bound = _index_bound(reached)
    if "mask" in name:
        return Role("mask")
    if _SEGMENT_NAME.search(name):
        return Role("segments", bound or 2)
    if "position" in name:
        return Role("positions", bound)
    if bound is not None:
        return Role("tokens", bound)
    if _RATE_NAME.search(name):
        return Role("rate")
    if rank <= 1 and _LENGTH_NAME.search(name):
        return Role("lengths")
    if value.dtype == ir.DataType.UINT8:
        return Role("image" if rank >= 3 else "bytes")
    if any(c.node.op_type == "Loop" and c.position == 0 for c in reached):
        return Role("trips")
    if any(_sets_a_size(consumer) for consumer in reached):
        return Role("count")
    return Role("integers", range=integer_range(value))


def _index_bound(reached: list[Consumer]) -> int | None:
    """The smallest table that the integers index."""
    bounds = [bound for consumer in reached if (bound := _table_size(consumer)) is not None]
    return min(bounds, default=None)


def _table_size(consumer: Consumer) -> int | None:
    node, position = consumer.node, consumer.position
    match node.op_type:
        case "Gather" | "GatherElements" if position == 1:
            return _size(node.inputs[0], _int(node, "axis", 0))
        case "GatherBlockQuantized" if position == 1:
            return _size(node.inputs[0], _int(node, "gather_axis", 0))
        case "EmbedLayerNormalization" if position <= 1:
            return _size(node.inputs[2 if position == 0 else 4], 0)
        case "OneHot" if position == 0:
            depth = node.inputs[1]
            tensor = None if depth is None else ir.convenience.get_const_tensor(depth)
            return None if tensor is None else int(tensor.numpy().reshape(-1)[0])
        case "Equal":
            return _largest_constant(node.inputs[1 - position])
        case "ScatterElements" | "ScatterND" | "GatherND" if position == 1:
            return 1  # index 0 exists in every table
    return None


def _largest_constant(value: ir.Value | None) -> int | None:
    """One past the largest of several classes that integers are compared with (a one-hot)."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    if tensor is None or tensor.size < 3 or tensor.dtype not in _INTEGERS:
        return None
    return max(1, int(tensor.numpy().max()) + 1)


def _sets_a_size(consumer: Consumer) -> bool:
    match consumer.node.op_type:
        case "Range" | "ConstantOfShape":
            return True
        case "Reshape" | "Expand" | "Tile" | "TopK" | "Pad" | "Resize" | "Slice" | "Upsample":
            return consumer.position > 0
    return False


def _float_kind(value: ir.Value, reached: list[Consumer]) -> Kind:
    name = value.name or ""
    shape = value.shape
    rank = None if shape is None else len(shape)
    if "mask" in name.lower():
        return "mask"
    if _PAST_NAME.search(name) and rank is not None and rank >= 3:
        return "past"
    recurrent = any(
        c.node.op_type in ("LSTM", "GRU", "RNN") and c.position in (5, 6) for c in reached
    )
    if recurrent or (_STATE_NAME.search(name) and rank != 4):
        return "state"
    if shape is not None and rank in (4, 5):
        channels = [dim for dim in (shape[1], shape[-1]) if isinstance(dim, int)]
        convolved = any(c.node.op_type == "Conv" and c.position == 0 for c in reached)
        if convolved or any(dim in _CHANNELS for dim in channels):
            return "image"
    return "signal"


def _quantized_range(reached: list[Consumer]) -> tuple[float, float] | None:
    """What the first quantization of an input can represent: the range it was calibrated to."""
    for consumer in reached:
        node = consumer.node
        if node.op_type != "QuantizeLinear" or consumer.position != 0 or len(node.inputs) < 3:
            continue
        parameters = [
            None if v is None else ir.convenience.get_const_tensor(v) for v in node.inputs
        ]
        scale, zero_point = parameters[1:3]
        if scale is None or zero_point is None or scale.size != 1 or zero_point.size != 1:
            continue
        if zero_point.dtype not in _INTEGERS:
            continue
        limits = np.iinfo(zero_point.dtype.numpy())
        step, zero = float(scale.numpy().item()), int(zero_point.numpy().item())
        return (int(limits.min) - zero) * step, (int(limits.max) - zero) * step
    return None


def _known_words(value: ir.Value, model: ir.Model) -> tuple[str, ...]:
    """The texts that a label encoder of the model has keys for."""
    words: list[str] = []
    for consumer in consumers(value, model):
        for name in ("keys_strings", "cats_strings", "classes_strings", "string_vocabulary"):
            attribute = consumer.node.attributes.get(name)
            if attribute is not None:
                words += attribute.as_strings()
        if consumer.node.op_type == "Cast":
            words += ["1", "2.5", "-3"]
        if consumer.node.op_type in ("Equal", "StringConcat"):
            words += _constant_words(consumer)
    return tuple(dict.fromkeys(words))


def _constant_words(consumer: Consumer) -> list[str]:
    words: list[str] = []
    for other in consumer.node.inputs:
        tensor = None if other is None else ir.convenience.get_const_tensor(other)
        if tensor is not None and tensor.dtype == ir.DataType.STRING:
            flat = np.asarray(tensor.numpy(), dtype=object).reshape(-1)
            words += [w.decode() if isinstance(w, bytes) else str(w) for w in flat[:100]]
    return words


def _size(table: ir.Value | None, axis: int) -> int | None:
    shape = None if table is None else table.shape
    if table is not None and table.const_value is not None:
        shape = table.const_value.shape if isinstance(table.const_value.shape, ir.Shape) else shape
    if shape is None or not -len(shape) <= axis < len(shape):
        return None
    size = shape[axis]
    return size if isinstance(size, int) and size > 0 else None


def _int(node: ir.Node, name: str, default: int) -> int:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()
