"""Accuracy of the digits classifiers before and after `onnxopt quantize`.

    python benchmarks/quantized_digits.py

Calibrated on training images, scored on all held-out ones. The models are small enough that float
may be as fast, so the quantized form is forced.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "models"))

from digits_data import digits  # noqa: E402

import onnxopt  # noqa: E402
from onnxopt.runtime.session import open_session  # noqa: E402


def main() -> None:
    data = digits()
    for name in ("digits_cnn", "digits_transformer"):
        model = onnxopt.load(ROOT / "models" / f"{name}.onnx")
        entry = model.graph.inputs[0].name or ""
        samples = [{entry: data.train_images[i : i + 8]} for i in range(0, 512, 8)]
        for mode in ("static", "dynamic"):
            found = onnxopt.quantize(model, calibration=samples, mode=mode, force=True)
            scores = []
            for one in (model, found.model):
                (logits,) = open_session(one).run({entry: data.test_images}).values()
                scores.append(float(np.mean(logits.argmax(-1) == data.test_labels)))
            print(
                f"{name:20} {found.report.chosen:24} accuracy {scores[0]:.4f} -> {scores[1]:.4f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
