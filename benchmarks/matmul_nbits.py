"""One token times a weight in few bits: which block size, accuracy level and bits are fast here.

    python benchmarks/matmul_nbits.py [--seconds 2]

Times MatMulNBits of ONNX Runtime for the shapes of a small decoder, each on copies of the weight
that do not fit into caches together, and prints how many times as fast as a float32 MatMul each is.
Accuracy level 4 computes with int8 activations, 1 with float32.
"""

from __future__ import annotations

import argparse

from onnxopt.runtime.measuring.block_timing import time_block_sizes, time_float

SHAPES = ((768, 768), (768, 3072), (3072, 768), (768, 32000))
_SIZES = (32, 64, 128)


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0)
    seconds = parser.parse_args().seconds
    print("| K x N | bits | level | " + " | ".join(f"block {size}" for size in _SIZES) + " |")
    print("|---" * (3 + len(_SIZES)) + "|")
    for shape in SHAPES:
        reference = time_float(shape, seconds=seconds)
        for bits in (4, 8):
            for level in (1, 4):
                found = time_block_sizes(
                    shape,
                    _SIZES,
                    bits=bits,
                    symmetric=True,
                    accuracy_level=level,
                    seconds=seconds,
                )
                ratios = " | ".join(f"{reference / one:.1f}x" for one in found.seconds)
                print(f"| {shape[0]} x {shape[1]} | {bits} | {level} | {ratios} |", flush=True)


if __name__ == "__main__":
    main()
