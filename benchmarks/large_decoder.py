"""Builds a Llama decoder in the shapes of 7 billion parameters, one weight in memory at a time.

The graph is fused as export tools for decoders write it (GroupQueryAttention with its cache and
rotary embedding, SimplifiedLayerNormalization). Weights are seeded random numbers: slices of one
buffer of normal numbers, each from another place, since drawing seven billion takes minutes.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

_DTYPES = {"float16": TensorProto.FLOAT16, "float32": TensorProto.FLOAT}
_POOL = 1 << 24
_LONGEST = 2048
_ALIGNMENT = 4096


@dataclasses.dataclass(frozen=True)
class Shape:
    """Of a decoder; by default that of Llama 2 with 7 billion parameters."""

    layers: int = 32
    width: int = 4096
    heads: int = 32
    key_heads: int = 32
    hidden: int = 11008
    vocabulary: int = 32000


class _Writer:
    """Nodes, and initializers whose data goes to a file as they come."""

    def __init__(self, path: Path, dtype: str, *, sparse: bool) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.dtype = dtype
        self._sparse = sparse
        self._file = path.open("wb")
        self._name = path.name
        rng = np.random.default_rng(0)
        self._pool = (rng.standard_normal(_POOL, dtype=np.float32) * 0.02).astype(dtype)
        self._place = 0

    def node(self, kind: str, inputs: list[str], outputs: list[str], **attributes: object) -> str:
        domain = {"domain": "com.microsoft"} if kind == "GroupQueryAttention" else {}
        made = helper.make_node(kind, inputs, outputs, outputs[0], **domain, **attributes)
        self.nodes.append(made)
        return outputs[0]

    def weight(self, name: str, *shape: int) -> str:
        """A random weight; a hole in the file, which reads as zeros, where the file is sparse."""
        count = int(np.prod(shape))
        start = self._file.tell() + -self._file.tell() % _ALIGNMENT
        self._file.seek(start)
        if self._sparse:
            self._file.truncate(start + count * self._pool.itemsize)
            self._file.seek(0, 2)
        else:
            left = count
            while left:
                self._place = (self._place + 7919) % _POOL
                piece = self._pool[self._place : self._place + left]
                piece.tofile(self._file)
                left -= len(piece)
        return self._declare(name, shape, start, count)

    def constant(self, name: str, array: np.ndarray) -> str:
        start = self._file.tell() + -self._file.tell() % _ALIGNMENT
        self._file.seek(start)
        array.astype(self.dtype).tofile(self._file)
        return self._declare(name, array.shape, start, array.size)

    def _declare(self, name: str, shape: tuple[int, ...], start: int, count: int) -> str:
        tensor = TensorProto(name=name, dims=shape, data_type=_DTYPES[self.dtype])
        tensor.data_location = TensorProto.EXTERNAL
        length = count * self._pool.itemsize
        for key, value in (("location", self._name), ("offset", start), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
        self.initializers.append(tensor)
        return name


def build(path: Path, shape: Shape, *, dtype: str = "float16", sparse: bool = False) -> None:
    """Writes `path` and its data file beside it.

    Args:
        path: The model file.
        shape: Of the decoder.
        dtype: float16 or float32.
        sparse: Leave the weights out: the data file takes no space and reads as zeros.
    """
    out = _Writer(path.with_name(f"{path.name}.data"), dtype, sparse=sparse)
    size = shape.width // shape.heads
    angles = np.arange(_LONGEST)[:, None] / 10000 ** (np.arange(0, size, 2) / size)
    cos, sin = out.constant("cos", np.cos(angles)), out.constant("sin", np.sin(angles))
    total = out.node("ReduceSum", ["attention_mask", "axis"], ["tokens"], keepdims=0)
    last = out.node("Cast", [out.node("Sub", [total, "one"], ["last"])], ["last32"], to=6)
    length = out.node("Shape", ["attention_mask"], ["mask_shape"])
    length = out.node("Gather", [length, "one"], ["length"])
    length = out.node("Cast", [length], ["length32"], to=6)
    table = out.weight("embedding", shape.vocabulary, shape.width)
    value = out.node("Gather", [table, "input_ids"], ["embedded"])
    for layer in range(shape.layers):
        value = _layer(out, f"layer{layer}", value, shape, [last, length, cos, sin])
    value = _norm(out, "norm", value, shape.width)
    head = out.weight("head", shape.width, shape.vocabulary)
    out.node("MatMul", [value, head], ["logits"])
    _save(path, out, shape, size)


def _layer(out: _Writer, name: str, value: str, shape: Shape, shared: list[str]) -> str:
    size = shape.width // shape.heads
    normed = _norm(out, f"{name}/norm", value, shape.width)
    parts = []
    for part, heads in (("q", shape.heads), ("k", shape.key_heads), ("v", shape.key_heads)):
        weight = out.weight(f"{name}/{part}/weight", shape.width, heads * size)
        parts.append(out.node("MatMul", [normed, weight], [f"{name}/{part}"]))
    last, length, cos, sin = shared
    mixed = out.node(
        "GroupQueryAttention",
        [*parts, f"past.{name}.key", f"past.{name}.value", last, length, cos, sin],
        [f"{name}/attention", f"present.{name}.key", f"present.{name}.value"],
        num_heads=shape.heads,
        kv_num_heads=shape.key_heads,
        do_rotary=1,
    )
    weight = out.weight(f"{name}/o/weight", shape.width, shape.width)
    mixed = out.node("MatMul", [mixed, weight], [f"{name}/o"])
    value = out.node("Add", [value, mixed], [f"{name}/sum"])
    normed = _norm(out, f"{name}/norm2", value, shape.width)
    gate, up = (
        out.node(
            "MatMul",
            [normed, out.weight(f"{name}/{part}/weight", shape.width, shape.hidden)],
            [f"{name}/{part}"],
        )
        for part in ("gate", "up")
    )
    gated = out.node("Mul", [gate, out.node("Sigmoid", [gate], [f"{name}/sigmoid"])], [f"{name}/s"])
    gated = out.node("Mul", [gated, up], [f"{name}/gated"])
    weight = out.weight(f"{name}/down/weight", shape.hidden, shape.width)
    return out.node(
        "Add", [value, out.node("MatMul", [gated, weight], [f"{name}/down"])], [f"{name}/out"]
    )


def _norm(out: _Writer, name: str, value: str, width: int) -> str:
    scale = out.constant(f"{name}/scale", np.ones(width))
    return out.node("SimplifiedLayerNormalization", [value, scale], [name], epsilon=1e-5, axis=-1)


def _save(path: Path, out: _Writer, shape: Shape, size: int) -> None:
    kind = _DTYPES[out.dtype]
    cache = [f"layer{layer}.{part}" for layer in range(shape.layers) for part in ("key", "value")]
    value = helper.make_tensor_value_info
    dims = {"past": ["batch", shape.key_heads, "past", size]}
    dims["present"] = ["batch", shape.key_heads, "total", size]
    inputs = [
        value("input_ids", TensorProto.INT64, ["batch", "sequence"]),
        value("attention_mask", TensorProto.INT64, ["batch", "total"]),
        *(value(f"past.{name}", kind, dims["past"]) for name in cache),
    ]
    outputs = [
        value("logits", kind, ["batch", "sequence", shape.vocabulary]),
        *(value(f"present.{name}", kind, dims["present"]) for name in cache),
    ]
    small = [
        helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
        helper.make_tensor("one", TensorProto.INT64, [], [1]),
    ]
    graph = helper.make_graph(out.nodes, "decoder", inputs, outputs, [*small, *out.initializers])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
