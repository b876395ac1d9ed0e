"""float16 conversion of models, beside onnxconverter-common's and ONNX Runtime's converters.

    pip install onnxconverter-common
    python benchmarks/half_precision.py [MODEL.onnx ...] [--timeout 300]

By default the reference models that are built already. Each converter runs in a process of its own;
a row says what came out: whether ONNX Runtime loads and runs it, the largest relative error of an
output against float32 on the CPU, casts, and bytes. (CPU kernels compute float16 models in
float32 for the most part: an error here is one of weights and borders. onnxopt's own report has the
error of a model that rounds everywhere.)
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx

from onnxopt.calibration.data import open_data
from onnxopt.graph.loading import load_model
from onnxopt.runtime.half_search import outputs_of, relative_error

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "models"))

from cache import locate
from registry import MODELS

CONVERTERS = {
    "onnxopt": """
import sys, onnxopt
report = onnxopt.convert(sys.argv[1], sys.argv[2], to="fp16").report
print(f"{report.error:.2e}")
""",
    "onnxconverter-common": """
import sys, onnx
from onnxconverter_common import float16
model = float16.convert_float_to_float16(onnx.load(sys.argv[1]), keep_io_types=True)
onnx.save(model, sys.argv[2])
""",
    "onnxruntime": """
import sys, onnx
from onnxruntime.transformers import float16
model = float16.convert_float_to_float16(onnx.load(sys.argv[1]), keep_io_types=True)
onnx.save(model, sys.argv[2])
""",
}
CHECK = """
import sys, half_precision
half_precision.check(*sys.argv[1:3])
"""


def check(original: str, converted: str) -> None:
    """Prints the largest error, the number of casts and the size as JSON."""
    reference = load_model(original)
    feeds = [open_data(None, reference)[0].feeds]
    found = outputs_of(load_model(converted), feeds)
    error = relative_error(outputs_of(reference, feeds), found)
    nodes = onnx.load(converted, load_external_data=False).graph.node
    casts = sum(node.op_type == "Cast" for node in nodes)
    size = Path(converted).stat().st_size / max(1, Path(original).stat().st_size)
    print(json.dumps({"error": error, "casts": casts, "size": size}))


def run(code: str, *arguments: str, timeout: float) -> tuple[bool, str]:
    """Whether a process ended well, and the last line of its output."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            cwd=Path(__file__).parent,
        )
    except subprocess.TimeoutExpired:
        return False, "time-out"
    lines = (done.stderr if done.returncode else done.stdout).splitlines()
    return not done.returncode, lines[-1] if lines else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--timeout", type=float, default=300)
    arguments = parser.parse_args()
    built = [locate(spec) for spec in MODELS if not spec.name.startswith("big_")]
    models = arguments.models or [path for path in built if path.exists()]
    good = dict.fromkeys(CONVERTERS, 0)
    for model in models:
        for name, code in CONVERTERS.items():
            with tempfile.TemporaryDirectory() as folder:
                output = str(Path(folder, "half.onnx"))
                ended, said = run(code, str(model.resolve()), output, timeout=arguments.timeout)
                if ended:
                    ended, said = run(CHECK, str(model.resolve()), output, timeout=300)
            row = json.loads(said) if ended else None
            fine = row is not None and np.isfinite(row["error"]) and row["error"] <= 0.01
            good[name] += fine
            text = (
                f"error {row['error']:.2e}  {row['casts']:4d} casts  size {row['size']:.3f}"
                if row
                else f"fails: {said[:110]}"
            )
            mark = "ok " if fine else "BAD"
            print(f"{model.stem:24} {name:22} {mark} {text}", flush=True)
    for name, count in good.items():
        print(f"{name:22} {count} of {len(models)} run with an error of at most 1 %")


if __name__ == "__main__":
    main()
