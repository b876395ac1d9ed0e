"""How fast MatMulNBits is in each block size, on this machine: one token times a weight.

The blocks of a weight are a trade between accuracy (small ones) and bytes of scales (large ones);
which of them the kernels like best differs from CPU to CPU and from shape to shape. Every size is
timed on a row of copies of the weight that do not fit into caches together, as in a decoder, where
each weight is read once a token.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxopt.runtime.measuring.interleaving import time_interleaved
from onnxopt.runtime.session import Session, open_session

_DOMAIN = "com.microsoft"
# More than the last level of most caches, and few enough copies to build quickly.
_BYTES = 48 << 20
_MOST_COPIES = 48
_FEWEST_ROUNDS = 12
# On a quiet machine a quarter of all runs is that close to the fastest one.
_STEADY = 1.1


@dataclasses.dataclass(frozen=True)
class BlockTimes:
    """Of one shape.

    Attributes:
        seconds: That one product takes, for each block size.
        steady: False if the machine was too busy for figures that can be relied on.
    """

    seconds: list[float]
    steady: bool


def time_block_sizes(
    shape: tuple[int, int],
    sizes: Sequence[int],
    *,
    bits: int,
    symmetric: bool,
    accuracy_level: int = 4,
    threads: int | None = None,
    seconds: float = 0.5,
) -> BlockTimes:
    """Times one product in each block size.

    Args:
        shape: K and N of the weight.
        sizes: The block sizes.
        bits: 4 or 8.
        symmetric: Without zero points.
        accuracy_level: Of MatMulNBits.
        threads: Of the session; ONNX Runtime's choice by default.
        seconds: How long to measure all sizes together.

    Raises:
        CannotRunError: ONNX Runtime has no kernel for one of them.
    """
    copies = _copies(shape, bits)
    models = [_products(shape, size, bits, symmetric, accuracy_level, copies) for size in sizes]
    return _time(models, shape[0], copies, threads, seconds)


def time_float(
    shape: tuple[int, int], *, threads: int | None = None, seconds: float = 0.5
) -> float:
    """Seconds that one product takes with a float32 weight of shape (K, N)."""
    copies = _copies(shape, 32)
    rng = np.random.default_rng(0)
    weights = [
        ir.Value(name=f"w{copy}", const_value=ir.tensor(rng.random(shape, np.float32)))
        for copy in range(copies)
    ]
    x = _token(shape[0])
    nodes = [ir.node("MatMul", [x, weight]) for weight in weights]
    model = _model(x, nodes, weights, shape[1])
    return _time([model], shape[0], copies, threads, seconds).seconds[0]


def _copies(shape: tuple[int, int], bits: int) -> int:
    return min(_MOST_COPIES, max(1, _BYTES * 8 // (shape[0] * shape[1] * bits)))


def _time(
    models: Sequence[ir.Model], length: int, copies: int, threads: int | None, seconds: float
) -> BlockTimes:
    sessions = [open_session(model, threads=threads) for model in models]
    feeds = {"x": np.random.default_rng(0).standard_normal((1, length), dtype=np.float32)}

    def call(session: Session) -> object:
        return session.run(feeds)

    calls = [lambda one=session: call(one) for session in sessions]
    timings = time_interleaved(calls, seconds=seconds, fewest_rounds=_FEWEST_ROUNDS)
    # The fastest run: whatever else the machine does can only slow one down.
    fastest = [float(runs.min()) for runs in timings.runs]
    quarter = [float(np.percentile(runs, 25)) for runs in timings.runs]
    return BlockTimes(
        [one / copies for one in fastest],
        all(q <= _STEADY * f for q, f in zip(quarter, fastest, strict=True)),
    )


def _products(
    shape: tuple[int, int], size: int, bits: int, symmetric: bool, accuracy_level: int, copies: int
) -> ir.Model:
    """A model that multiplies one row with that many weights."""
    length, columns = shape
    rng = np.random.default_rng(0)
    blocks = -(-length // size)
    x = _token(length)
    attributes = {
        "K": length,
        "N": columns,
        "bits": bits,
        "block_size": size,
        "accuracy_level": accuracy_level,
    }
    nodes, initializers = [], []
    for copy in range(copies):
        parts = {
            "data": rng.integers(0, 256, (columns, blocks, size * bits // 8), np.uint8),
            "scales": np.full((columns, blocks), 0.01, np.float32),
        }
        if not symmetric:
            width = -(-blocks * bits // 8)
            parts["zeros"] = np.full((columns, width), 0x88 if bits == 4 else 0x80, np.uint8)
        values = [
            ir.Value(name=f"{part}{copy}", const_value=ir.tensor(array, name=f"{part}{copy}"))
            for part, array in parts.items()
        ]
        nodes.append(ir.node("MatMulNBits", [x, *values], attributes, domain=_DOMAIN, version=1))
        initializers += values
    return _model(x, nodes, initializers, columns)


def _token(length: int) -> ir.Value:
    return ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape((1, length)))


def _model(
    x: ir.Value, nodes: list[ir.Node], initializers: list[ir.Value], columns: int
) -> ir.Model:
    """Products of one row, all of them outputs."""
    for number, node in enumerate(nodes):
        output = node.outputs[0]
        output.name, output.type, output.shape = f"y{number}", x.type, ir.Shape((1, columns))
    graph = ir.Graph(
        [x],
        [node.outputs[0] for node in nodes],
        nodes=nodes,
        initializers=initializers,
        opset_imports={"": 18, _DOMAIN: 1},
        name="products",
    )
    return ir.Model(graph, ir_version=9)
