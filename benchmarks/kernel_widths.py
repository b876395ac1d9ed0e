"""Which widths do kernels like? Times of Conv and MatMul over the number of output channels.

    python benchmarks/kernel_widths.py

Prints, for each form, the time of every width as a share of that of the widest; all widths of a
form are timed in interleaved rounds, in one thread. Where the time stays the same down to the next
multiple of 8, removing the channels above it gains nothing.
"""

from __future__ import annotations

import functools
import logging
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from helpers.rewriting import parse_model

from onnxopt.runtime.measuring.interleaving import time_interleaved
from onnxopt.runtime.session import open_session

_WIDTHS = (128, 124, 120, 116, 112, 108, 104, 100, 96, 88, 80, 72, 64)
_RNG = np.random.default_rng(0)


def _normal(*shape: int) -> np.ndarray:
    return _RNG.standard_normal(shape).astype(np.float32)


def conv(width: int, channels: int, kernel: int, size: int) -> tuple[ir.Model, np.ndarray]:
    """Conv, Relu and a 1x1 Conv, so that the width is one inside of the model."""
    pad = kernel // 2
    text = (
        f"g (float[1,{channels},{size},{size}] x) => (float[1,64,{size},{size}] y) {{"
        f" a = Conv<pads=[{pad},{pad},{pad},{pad}]>(x, w) r = Relu(a) y = Conv(r, v) }}"
    )
    weights = {"w": _normal(width, channels, kernel, kernel), "v": _normal(64, width, 1, 1)}
    return parse_model(text, weights), _normal(1, channels, size, size)


def matmul(width: int, rows: int, inputs: int) -> tuple[ir.Model, np.ndarray]:
    """MatMul, Relu and a MatMul back."""
    text = (
        f"g (float[{rows},{inputs}] x) => (float[{rows},{inputs}] y) {{"
        " a = MatMul(x, w) r = Relu(a) y = MatMul(r, v) }"
    )
    weights = {"w": _normal(inputs, width), "v": _normal(width, inputs)}
    return parse_model(text, weights), _normal(rows, inputs)


FORMS = {
    "Conv 3x3, 64 channels, 28x28": functools.partial(conv, channels=64, kernel=3, size=28),
    "Conv 1x1, 256 channels, 14x14": functools.partial(conv, channels=256, kernel=1, size=14),
    "MatMul 128x384": functools.partial(matmul, rows=128, inputs=384),
}


def main() -> None:
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    print("| form | " + " | ".join(map(str, _WIDTHS)) + " |")
    print("|---|" + "---|" * len(_WIDTHS))
    for name, build in FORMS.items():
        calls = []
        for width in _WIDTHS:
            model, x = build(width)
            session = open_session(model, threads=1, spinning=False)
            calls.append(functools.partial(session.run, {"x": x}))
        rounds = time_interleaved(calls, seconds=3.0).rounds
        times = np.median(rounds / rounds[:, :1], axis=0)
        print(f"| {name} | " + " | ".join(f"{time:.2f}" for time in times) + " |", flush=True)


if __name__ == "__main__":
    main()
