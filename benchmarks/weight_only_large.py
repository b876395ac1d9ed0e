"""Seconds and peak memory of quantizing a decoder of 7 billion parameters to 4 bits.

    python benchmarks/weight_only_large.py [--dtype float16] [--sparse] [--layers 32] [--folder F]

float16 writes 13.5 GB of random weights first, and removes them afterwards. With `--sparse` the
weights are a hole in the file, which takes no space and reads as zeros: for the 27 GB of float32.
The command is the one that a user runs, as a process of its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from pathlib import Path

from large_decoder import Shape, build
from measuring import run_process


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", choices=["float16", "float32"], default="float16")
    parser.add_argument("--sparse", action="store_true")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--folder", type=Path, help="where there is room; a temporary one inside")
    arguments = parser.parse_args()
    shape = dataclasses.replace(Shape(), layers=arguments.layers)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        source, output = Path(scratch, "decoder.onnx"), Path(scratch, "decoder.int4.onnx")
        build(source, shape, dtype=arguments.dtype, sparse=arguments.sparse)
        command = [sys.executable, "-m", "onnxopt", "quantize", str(source), "-o", str(output)]
        done = run_process([*command, "--mode", "weight-only", "--bits", "4", "-q"])
        if done.code:
            raise SystemExit(done.output)
        before, after = (
            sum(path.stat().st_size for path in Path(scratch).glob(f"{name.name}*")) / 1e9
            for name in (source, output)
        )
        print(
            f"{arguments.dtype}{' (sparse)' * arguments.sparse}, {arguments.layers} layers: ",
            end="",
        )
        print(
            f"{before:.1f} GB -> {after:.1f} GB, {done.seconds:.0f} s, {done.peak_mb:.0f} MB peak"
        )


if __name__ == "__main__":
    main()
