"""Decoding speed of the 168M-parameter decoder in 4 bits: one token at 128 past.

    python benchmarks/decode_speed.py [--seconds 20] [--threads 2] [--folder KEPT]

All sessions run in interleaved rounds in one process; a ratio is how many times faster than the
float32 export a model is, with its 95 % interval. `onnxruntime` rows are ONNX Runtime's own 4-bit
quantizer on the same export, in both block sizes that its documentation uses, with int8 activations
(accuracy level 4) and no zero points, which is its fastest form; the last column compares with
the faster one of them.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from measuring import latency_ratios, open_session
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

from onnxopt.optimizing import optimize
from onnxopt.weight_only import quantize_weights

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "models"))

from cache import materialize
from registry import model as find_model

PAST = 128


def feeds(session: object) -> dict[str, np.ndarray]:
    """One token after 128 others."""
    rng = np.random.default_rng(0)
    fed: dict[str, np.ndarray] = {}
    for declared in session.get_inputs():  # type: ignore[attr-defined]
        if declared.name.startswith("past"):
            _, heads, _, size = declared.shape
            fed[declared.name] = rng.standard_normal((1, heads, PAST, size)).astype(np.float32)
        elif "mask" in declared.name:
            fed[declared.name] = np.ones((1, PAST + 1), np.int64)
        elif "position" in declared.name:
            fed[declared.name] = np.array([[PAST]])
        else:
            fed[declared.name] = np.array([[17]])
    return fed


def build(source: Path, folder: Path) -> dict[str, Path]:
    """The models to measure; those that are in the folder already are not built again."""
    paths: dict[str, Path] = {}

    def wanted(name: str) -> Path | None:
        paths[name] = folder / f"{name.replace(' ', '_').replace(',', '')}.onnx"
        return None if paths[name].exists() else paths[name]

    for block in (32, 128):
        if path := wanted(f"onnxruntime int4, block {block}"):
            quantizer = MatMulNBitsQuantizer(
                onnx.load(source), block_size=block, is_symmetric=True, accuracy_level=4
            )
            quantizer.process()
            onnx.save(quantizer.model.model, path)
    if path := wanted("onnxopt float32"):
        optimize(source, path, guard="off")
    fused = paths["onnxopt float32"]
    for block in (32, 128):
        for symmetric in (False, True):
            if path := wanted(f"onnxopt int4, block {block}{', symmetric' * symmetric}"):
                quantize_weights(fused, path, block_size=block, symmetric=symmetric)
    if path := wanted("onnxopt int8, block 128"):
        quantize_weights(fused, path, bits=8, block_size=128)
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="llama168m")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="keep the models here for another run")
    arguments = parser.parse_args()
    logging.disable(logging.INFO)
    source = materialize(find_model(arguments.model))
    with tempfile.TemporaryDirectory(dir=source.parent.parent) as scratch:
        folder = arguments.folder or Path(scratch)
        folder.mkdir(exist_ok=True)
        paths = build(source, folder)
        base = open_session(source, arguments.threads)
        sessions = [open_session(path, arguments.threads) for path in paths.values()]
        ratios = latency_ratios(base, sessions, feeds(base), seconds=arguments.seconds, burst=6)
        theirs = max(r for name, (r, _, _) in zip(paths, ratios, strict=True) if "runtime" in name)
        for (name, path), (ratio, low, high) in zip(paths.items(), ratios, strict=True):
            size = path.stat().st_size / source.stat().st_size
            print(
                f"{name:34} {ratio:5.2f} x ({low:.2f} to {high:.2f})   size {size:.3f}   "
                f"{ratio / theirs:.2f} x onnxruntime"
            )


if __name__ == "__main__":
    main()
