"""Combinations of the options of `onnxopt quantize`, drawn with a seed, on small models.

    python benchmarks/int8_combinations.py [--runs 60] [--seed 0] [--budget 3] [MODEL ...]

Each is a call of the command as a user would type it, with calibration data (digits for the digits
classifiers, synthesized otherwise). A combination may be refused in one line; it must not end in a
traceback, in a model that does not run, or, without --force, in one proven slower than its input.
Every failure is printed with its command line; the exit status is 1 if there was any.
"""

from __future__ import annotations

import argparse
import random
import shlex
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from click.testing import CliRunner

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "models"))

import onnxopt  # noqa: E402
from onnxopt.cli.group import cli  # noqa: E402
from onnxopt.core.errors import OnnxOptError  # noqa: E402
from onnxopt.runtime.inputs.plan import plan_inputs  # noqa: E402
from onnxopt.runtime.inputs.trials import run_plan  # noqa: E402
from onnxopt.runtime.measuring.speed import measure_speed  # noqa: E402
from onnxopt.runtime.session import open_session  # noqa: E402

_TYPES = ("int8", "uint8", "int16", "uint16")
# Each option with what it may be; None for the default.
_OPTIONS: dict[str, tuple[str | None, ...]] = {
    "--mode": ("auto", "static", "dynamic"),
    "--method": (None, "min-max", "moving-average", "percentile", "entropy", "mse"),
    "--percentile": (None, "99.9", "100"),
    "--activation-type": (None, *_TYPES),
    "--weight-type": (None, *_TYPES),
    "--repair": (None, "none", "smooth,rounding", "equalize,ranges,insert"),
    "--max-error": (None, "1e-6", "0.02", "0.5"),
    "--min-cosine": (None, "0.999"),
    "--target": (None, "cpu:isa=avx2", "cpu:isa=vnni", "cpu:isa=neon", "cuda"),
    "--exclude": (None, "Conv", "MatMul"),
    "--samples": (None, "1", "5"),
    "--max-memory": (None, "1"),
}
_FLAGS: tuple[tuple[str | None, ...], ...] = (
    (None, "--per-tensor"),
    (None, "--reduce-range", "--full-range"),
    (None, "--embeddings"),
    (None, None, "--force"),
)
_SAMPLES = 12


def combinations(count: int, seed: int) -> Iterator[list[str]]:
    """Arguments of `quantize`, drawn at random."""
    draw = random.Random(seed)
    for _ in range(count):
        chosen = {name: draw.choice(values) for name, values in _OPTIONS.items()}
        flags = [draw.choice(values) for values in _FLAGS]
        named = [part for name, value in chosen.items() if value for part in (name, value)]
        yield [*named, *(flag for flag in flags if flag)]


def write_data(model: Path, folder: Path) -> Path:
    """A folder of .npz files to calibrate on."""
    target = folder / "data"
    target.mkdir()
    loaded = onnxopt.load(model)
    if model.stem.startswith("digits_"):
        from digits_data import digits

        name = loaded.graph.inputs[0].name or ""
        images = digits().train_images
        feeds = [{name: images[index : index + 1]} for index in range(_SAMPLES)]
    else:
        session = open_session(loaded)
        sets = run_plan(session, plan_inputs(loaded, sets=_SAMPLES)).sets
        feeds = [dict(one.feeds) for one in sets]
    for index, one in enumerate(feeds):
        np.savez(target / f"{index:02}.npz", **one)
    return target


def outcome(model: Path, data: Path, arguments: list[str], folder: Path) -> str:
    """What became of one call: "written", "refused", or what is wrong."""
    target = folder / "out.onnx"
    target.unlink(missing_ok=True)
    command = ["quantize", str(model), "-o", str(target), "--calibration", str(data), *arguments]
    run = CliRunner().invoke(cli, [*command, "-q"])
    if isinstance(run.exception, OnnxOptError):  # which the program prints
        text = str(run.exception)
        return "refused" if "\n" not in text and not target.exists() else f"unclear: {text}"
    if run.exception is not None:
        return "crash: " + "".join(traceback.format_exception(run.exception)[-3:])
    before, after = onnxopt.load(model), onnxopt.load(target)
    with np.load(data / "00.npz") as arrays:
        feeds = {name: arrays[name] for name in arrays.files}
    open_session(after).run(feeds)
    if "--force" in arguments:
        return "written"
    plan = run_plan(open_session(before), plan_inputs(before, sets=1)).sets
    for seconds in (2.0, 6.0):  # only what is slower twice is
        ratio = measure_speed(before, after, sets=plan, limit=seconds)
        if ratio.verdict != "slower":
            return "written"
    return f"slower: {ratio}"


def main() -> None:
    """Runs all combinations on all models."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path, nargs="*")
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budget", type=float, default=3.0)
    arguments = parser.parse_args()
    small = [ROOT / "models" / f"{name}.onnx" for name in ("digits_cnn", "digits_transformer")]
    counts: Counter[str] = Counter()
    for model in arguments.models or small:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            data = write_data(model, folder)
            for options in combinations(arguments.runs, arguments.seed):
                found = outcome(model, data, [*options, "--budget", str(arguments.budget)], folder)
                kind = found.split(":")[0]
                counts[kind] += 1
                if kind not in ("written", "refused"):
                    print(f"{model.stem} {shlex.join(options)}\n    {found}", flush=True)
        print(model.stem, dict(counts), flush=True)
    sys.exit(any(kind not in ("written", "refused") for kind in counts))


if __name__ == "__main__":
    main()
