r"""Seconds and peak memory of quantizing a decoder of 7 billion parameters to 4 bits.

    python benchmarks/weight_only_large.py [--dtype float16] [--sparse] [--layers 32] [--folder F]
    python benchmarks/weight_only_large.py --dtype float32 --width 2048 --hidden 5632 --layers 8 \
        --algorithm gptq --max-memory 1024

float16 writes 13.5 GB of random weights first, and removes them afterwards. With `--sparse` the
weights are a hole in the file, which takes no space and reads as zeros: for the 27 GB of float32.
The command is the one that a user runs, as a process of its own. The second form is a model of 2.2
GB, calibrated on eight texts of 128 random tokens.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from large_decoder import Shape, build
from measuring import run_process


def write_texts(folder: Path, shape: Shape, dtype: str) -> None:
    """Eight prompts of random tokens, without a past."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    past = np.zeros((1, shape.key_heads, 0, shape.width // shape.heads), dtype)
    cache = {
        f"past.layer{layer}.{part}": past
        for layer in range(shape.layers)
        for part in ("key", "value")
    }
    for index in range(8):
        tokens = rng.integers(0, shape.vocabulary, (1, 128))
        np.savez(
            folder / f"{index}.npz",
            input_ids=tokens,
            attention_mask=np.ones_like(tokens),
            **cache,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", choices=["float16", "float32"], default="float16")
    parser.add_argument("--sparse", action="store_true")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--folder", type=Path, help="where there is room; a temporary one inside")
    parser.add_argument("--width", type=int, default=Shape.width)
    parser.add_argument("--hidden", type=int, default=Shape.hidden)
    parser.add_argument("--algorithm", default="rtn")
    parser.add_argument("--max-memory", type=int, help="MiB; for gptq and awq")
    arguments = parser.parse_args()
    heads = arguments.width // 128
    shape = Shape(arguments.layers, arguments.width, heads, heads, arguments.hidden)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        source, output = Path(scratch, "decoder.onnx"), Path(scratch, "decoder.int4.onnx")
        build(source, shape, dtype=arguments.dtype, sparse=arguments.sparse)
        command = [sys.executable, "-m", "onnxopt", "quantize", str(source), "-o", str(output)]
        command += ["--mode", "weight-only", "--bits", "4", "-q", "--algorithm"]
        command.append(arguments.algorithm)
        if arguments.algorithm in ("gptq", "awq"):
            texts = Path(scratch, "texts")
            write_texts(texts, shape, arguments.dtype)
            command += ["--calibration", str(texts)]
        if arguments.max_memory:
            command += ["--max-memory", str(arguments.max_memory)]
        done = run_process(command, timeout=7200)
        if done.code:
            raise SystemExit(done.output)
        before, after = (
            sum(path.stat().st_size for path in Path(scratch).glob(f"{name.name}*")) / 1e9
            for name in (source, output)
        )
        sparse = " (sparse)" * arguments.sparse
        print(
            f"{arguments.dtype}{sparse}, {arguments.layers} layers, {arguments.algorithm}: ", end=""
        )
        print(
            f"{before:.1f} GB -> {after:.1f} GB, {done.seconds:.0f} s, {done.peak_mb:.0f} MB peak"
        )


if __name__ == "__main__":
    main()
