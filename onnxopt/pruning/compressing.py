"""What weights take when a file is compressed: zeros save nothing before that."""

from __future__ import annotations

import zlib
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor

import onnx_ir as ir

from onnxopt.core.walking import all_graphs
from onnxopt.graph.block_weights import WORKERS

# Bytes that are packed at a time.
_PIECE = 1 << 22


def compressed_size(tensor: ir.TensorProtocol) -> int:
    """Bytes of a tensor as zlib packs them."""
    packer = zlib.compressobj()
    data = memoryview(tensor.tobytes())
    size = sum(
        len(packer.compress(data[start : start + _PIECE])) for start in range(0, len(data), _PIECE)
    )
    return size + len(packer.flush())


def compressed_rest(model: ir.Model, done: Collection[ir.Value]) -> int:
    """Bytes of all other initializers, packed one by one."""
    tensors = [
        value.const_value
        for graph in all_graphs(model)
        for value in graph.initializers.values()
        if value not in done and value.const_value is not None
    ]
    with ThreadPoolExecutor(WORKERS) as pool:
        return sum(pool.map(compressed_size, tensors))
