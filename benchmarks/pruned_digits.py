"""Accuracy of the digits classifiers with half of their operations removed.

    python benchmarks/pruned_digits.py

Fitted and trained on training images without their labels, scored on all held-out ones. "uniform"
is the same share of every layer by magnitude, without repair.
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

_SHARE = 0.5


def main() -> None:
    data = digits()
    print("| model | original | uniform | pruned and repaired | and trained | operations left |")
    print("|---|---|---|---|---|---|")
    for name in ("digits_cnn", "digits_transformer"):
        path = ROOT / "models" / f"{name}.onnx"
        entry = onnxopt.load(path).graph.inputs[0].name or ""
        samples = [{entry: data.train_images[i : i + 16]} for i in range(0, 1344, 16)]

        def score(model: object, entry: str = entry) -> float:
            (logits,) = open_session(model).run({entry: data.test_images}).values()
            return float(np.mean(logits.argmax(-1) == data.test_labels))

        options = {"calibration": samples, "target_flops": _SHARE}
        uniform = onnxopt.prune(path, importance="l2", scope="layer", repair=False, **options)
        pruned = onnxopt.prune(path, **options)
        trained = onnxopt.recover(
            pruned.model, path, calibration=samples, epochs=30, learning_rate=1e-3
        )
        scores = [score(m) for m in (path, uniform.model, pruned.model, trained.model)]
        print(
            f"| {name} | "
            + " | ".join(f"{one:.2%}" for one in scores)
            + f" | {pruned.report.reached:.1%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
