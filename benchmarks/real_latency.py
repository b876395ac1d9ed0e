"""Latency of optimized real models against their originals, in ONNX Runtime's full optimization.

    python benchmarks/real_latency.py FOLDER [--threads 1] [--seconds 3]

Prints, for every model of the folder, how many times faster the optimized one is, with the 95 %
interval over interleaved rounds; a line that ends in SLOWER has an interval that lies below 1. The
last column is the original against a second session of itself: the noise of the comparison.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path

from measuring import latency_ratios, open_session

import onnxopt
from onnxopt.core.errors import OnnxOptError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0)
    arguments = parser.parse_args()
    ratios = []
    for source in sorted(arguments.folder.rglob("*.onnx")):
        name = str(source.relative_to(arguments.folder))
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder, "model.onnx")
            try:
                feeds = _feeds(source)
                onnxopt.optimize(source, target, guard="off")
            except OnnxOptError as error:
                print(f"{name:60} not measured: {error}")
                continue
            base, again = (open_session(source, arguments.threads) for _ in range(2))
            sessions = [open_session(target, arguments.threads), again]
            ours, noise = latency_ratios(base, sessions, feeds, seconds=arguments.seconds)
        ratios.append(ours[0])
        verdict = "SLOWER" if ours[2] < min(1.0, noise[1]) else ""
        print(
            f"{name:60} {ours[0]:.2f} ({ours[1]:.2f} to {ours[2]:.2f})  "
            f"itself {noise[0]:.2f} ({noise[1]:.2f} to {noise[2]:.2f}) {verdict}",
            flush=True,
        )
    if ratios:
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        print(f"{len(ratios)} models, geometric mean {mean:.2f}")


def _feeds(source: Path) -> dict[str, object]:
    """The first input set that the original runs with."""
    from onnxopt.runtime.inputs.plan import plan_inputs
    from onnxopt.runtime.inputs.trials import run_plan
    from onnxopt.runtime.session import open_session as open_quietly

    plan = plan_inputs(onnxopt.load(source), sets=1)
    return dict(run_plan(open_quietly(source), plan).sets[0].feeds)


if __name__ == "__main__":
    main()
