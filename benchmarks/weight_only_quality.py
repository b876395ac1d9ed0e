"""Perplexity of language models with trained weights in fewer bits.

    python benchmarks/byte_llama.py        (once; trains the first model)
    python benchmarks/weight_only_quality.py [--model byte_llama] [--block-size 32]
    python benchmarks/weight_only_quality.py --model FILE.onnx --tokens FILE.npy [--windows 64]

Every row quantizes the same model and scores the same held-out windows, in float arithmetic
(accuracy level 0), so that a difference is the weights'. `lost` is how much perplexity went, in
percent of that of the float model. The last rows are palettes (pass cluster-weights), with the size
of the file and of the file compressed by zlib, relative to the float file.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
import onnxruntime as ort

from onnxopt.graph.loading import load_model
from onnxopt.graph.saving import save_model
from onnxopt.passes.quantization import ClusterWeights
from onnxopt.weight_only import quantize_weights

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "models"))

from cache import cache_dir

WINDOW = 256
ROWS = [
    {"bits": 8, "algorithm": "rtn"},
    {"bits": 4, "algorithm": "rtn"},
    {"bits": 4, "algorithm": "mse"},
    {"bits": 4, "algorithm": "hqq"},
    {"bits": 4, "algorithm": "awq"},
    {"bits": 4, "algorithm": "gptq", "act_order": False},
    {"bits": 4, "algorithm": "gptq"},
    {"bits": "auto", "algorithm": "gptq"},
    {"bits": 4, "algorithm": "rtn", "symmetric": True},
    {"bits": 4, "algorithm": "gptq", "symmetric": True},
]

PALETTES = [
    ClusterWeights(count=count, form=form) for count in (256, 16) for form in ("gather", "values")
]


def feeds(session: ort.InferenceSession, tokens: np.ndarray) -> dict[str, np.ndarray]:
    """A prompt without a past."""
    fed: dict[str, np.ndarray] = {}
    for declared in session.get_inputs():
        if declared.name.startswith("past"):
            _, heads, _, size = declared.shape
            fed[declared.name] = np.zeros((len(tokens), heads, 0, size), np.float32)
        elif "mask" in declared.name:
            fed[declared.name] = np.ones(tokens.shape, np.int64)
        elif "position" in declared.name:
            fed[declared.name] = np.tile(np.arange(tokens.shape[1]), (len(tokens), 1))
        else:
            fed[declared.name] = tokens
    return fed


def perplexity(path: Path, windows: np.ndarray) -> float:
    """Exp of the mean negative log-likelihood of each token but the first."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    total, count = 0.0, 0
    for tokens in np.array_split(windows, max(1, len(windows) // 8)):
        logits = session.run(["logits"], feeds(session, tokens))[0].astype(np.float64)
        logits -= logits.max(-1, keepdims=True)
        log = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        total -= np.take_along_axis(log[:, :-1], tokens[:, 1:, None], -1).sum()
        count += tokens[:, 1:].size
    return float(np.exp(total / count))


def windows_of(tokens: np.ndarray, most: int) -> np.ndarray:
    count = min(most, len(tokens) // WINDOW)
    return tokens[: count * WINDOW].reshape(count, WINDOW).astype(np.int64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="byte_llama")
    parser.add_argument("--tokens", type=Path, help=".npy with one row of token ids")
    parser.add_argument("--block-size", type=int, default=32)
    parser.add_argument("--windows", type=int, default=256)
    arguments = parser.parse_args()
    if arguments.tokens:
        model, ids = Path(arguments.model), np.load(arguments.tokens)
        known, held_out = np.split(ids, [len(ids) // 4])
    else:
        folder = cache_dir() / arguments.model
        model = folder / f"{arguments.model}.onnx"
        known, held_out = (
            np.frombuffer((folder / f"{name}.txt").read_bytes(), np.uint8)
            for name in ("calibration", "held_out")
        )
    windows = windows_of(held_out, arguments.windows)
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    rows = windows_of(known, 128)
    data = [feeds(session, part) for part in np.array_split(rows, max(1, len(rows) // 4))]
    base = perplexity(model, windows)
    print(f"{'float':32} {base:8.4f}   {windows.size:,} tokens", flush=True)
    for row in ROWS:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch, "m.onnx")
            result = quantize_weights(
                model,
                path,
                calibration=data if row["algorithm"] in ("gptq", "awq") else None,
                block_size=arguments.block_size,
                accuracy_level=0,
                smallest=1024,
                **row,
            )
            found = perplexity(path, windows)
        report = result.report
        label = ", ".join(str(v) if k != "act_order" else "no act-order" for k, v in row.items())
        size = report.bytes_after / report.bytes_before
        lost = found / base - 1
        print(
            f"{label:32} {found:8.4f}   lost {lost:7.2%}   size {size:6.3f}   "
            f"{sum(report.seconds.values()):5.1f} s",
            flush=True,
        )
    whole = model.stat().st_size
    print(f"float, compressed: size {_compressed(model) / whole:.3f}")
    for palette in PALETTES:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch, "m.onnx")
            clustered = load_model(model)
            palette(clustered)
            save_model(clustered, path)
            lost = perplexity(path, windows) / base - 1
            size, small = path.stat().st_size / whole, _compressed(path) / whole
        label = f"palette of {palette.count}, {palette.form}"
        print(f"{label:32} lost {lost:7.2%}   size {size:.3f}   compressed {small:.3f}", flush=True)


def _compressed(path: Path) -> int:
    return len(zlib.compress(path.read_bytes()))


if __name__ == "__main__":
    main()
