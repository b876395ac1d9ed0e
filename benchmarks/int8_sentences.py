"""A sentence encoder in 8 bits: its embeddings and its ranking of sentence pairs.

    python benchmarks/int8_sentences.py MODEL_FOLDER STSB_FOLDER [--pairs 300] [--budget 180]

MODEL_FOLDER is a Hugging Face folder of a sentence encoder with mean pooling (all-MiniLM-L6-v2),
STSB_FOLDER holds sts-dev.csv and sts-test.csv of the STS benchmark. The export is quantized with
sentences of sts-dev; on pairs of sts-test every embedding is compared with the float model's
(cosine), and the similarities of the pairs with the float model's and with people's (Spearman).
Beside it the same for onnxruntime.quantization.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from export_minilm import embeddings, tokenized
from numpy.typing import NDArray
from ort_quantizers import run_setting

import onnxopt
from onnxopt.graph.loading import load_model
from onnxopt.runtime.inputs.plan import InputSet
from onnxopt.runtime.measuring.speed import measure_speed
from onnxopt.runtime.session import open_session

_SCORE, _FIRST, _SECOND = 4, 5, 6
_CALIBRATION = 128
_BATCH = 8


def pairs_of(path: Path) -> tuple[list[str], list[str], NDArray[Any]]:
    """First sentences, second sentences, and how similar people find them."""
    lines = [line.rstrip("\n").split("\t") for line in path.open(encoding="utf-8")]
    rows = [row for row in lines if len(row) > _SECOND]
    scores = np.array([float(row[_SCORE]) for row in rows])
    return [row[_FIRST] for row in rows], [row[_SECOND] for row in rows], scores


def spearman(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Correlation of ranks; equal numbers share their mean rank."""

    def ranks(values: NDArray[Any]) -> NDArray[Any]:
        _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
        return (np.cumsum(counts) - (counts - 1) / 2)[places]

    return float(np.corrcoef(ranks(one), ranks(other))[0, 1])


class Encoder:
    """A model's embeddings of sentences.

    Args:
        path: The model.
        folder: Where its tokenizer is.
    """

    def __init__(self, path: Path, folder: Path) -> None:
        self._session, self._folder = open_session(path), folder
        self._inputs = {value.name for value in self._session.inputs}

    def feeds(self, sentences: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Inputs for some sentences."""
        found = tokenized(self._folder, tuple(sentences))
        return {name: array for name, array in found.items() if name in self._inputs}

    def embed(self, sentences: Sequence[str]) -> NDArray[Any]:
        """One row for each sentence, each run alone, as in a search."""
        rows = []
        for sentence in sentences:
            feeds = self.feeds([sentence])
            (hidden, *_) = self._session.run(feeds).values()
            rows.append(embeddings(hidden, feeds["attention_mask"])[0])
        return np.array(rows)


def main() -> None:
    """Exports, quantizes and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("stsb", type=Path)
    parser.add_argument("--pairs", type=int, default=300)
    parser.add_argument("--budget", type=float, default=180.0)
    arguments = parser.parse_args()
    first, second, scores = pairs_of(arguments.stsb / "sts-test.csv")
    keep = np.linspace(0, len(first) - 1, min(arguments.pairs, len(first))).astype(int)
    first, second, scores = [first[i] for i in keep], [second[i] for i in keep], scores[keep]
    spoken = pairs_of(arguments.stsb / "sts-dev.csv")[0][:: 1500 // _CALIBRATION][:_CALIBRATION]
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work, "export")
        onnxopt.export(arguments.model, folder, optimize=False)
        source = folder / "model.onnx"
        encoder = Encoder(source, folder)
        data = Path(work, "data")
        data.mkdir()
        for start in range(0, len(spoken), _BATCH):
            np.savez(data / f"{start:04}.npz", **encoder.feeds(spoken[start : start + _BATCH]))
        made: dict[str, Path] = {}
        for mode in ("auto", "static"):
            target = Path(work, f"{mode}.onnx")
            found = onnxopt.quantize(
                source, target, calibration=data, mode=mode, budget=arguments.budget
            )
            made[f"onnxopt {mode}: {found.report.chosen}"] = target
        for setting in ("ort-dynamic", "ort-static"):
            target = Path(work, f"{setting}.onnx")
            failed = run_setting(setting, source, target, data, seconds=600)
            print(f"{setting}: {failed}") if failed else made.update({setting: target})
        floats = [encoder.embed(sentences) for sentences in (first, second)]
        similar = (floats[0] * floats[1]).sum(axis=1)
        print(f"{'float':34} Spearman with people {spearman(similar, scores):.4f}")
        sets = [InputSet(encoder.feeds(spoken[:1]), ""), InputSet(encoder.feeds(spoken[:8]), "")]
        for name, path in made.items():
            other = Encoder(path, folder)
            rows = [other.embed(sentences) for sentences in (first, second)]
            cosines = (np.concatenate(floats) * np.concatenate(rows)).sum(axis=1)
            found_similar = (rows[0] * rows[1]).sum(axis=1)
            ratio = measure_speed(load_model(source), load_model(path), sets, 8.0)
            print(
                f"{name:34} cosine mean {cosines.mean():.5f}, lowest {cosines.min():.5f}; Spearman "
                f"with float {spearman(found_similar, similar):.5f}, with people "
                f"{spearman(found_similar, scores):.4f}; {ratio}",
                flush=True,
            )


if __name__ == "__main__":
    main()
