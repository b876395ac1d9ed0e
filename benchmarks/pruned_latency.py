"""Is the time that was asked for the time that is got? `--target-latency 0.7` on reference models.

python benchmarks/pruned_latency.py [MODEL ...]

Ranked by magnitude and not repaired, since only the time matters here. "got" is timed anew, in
fresh sessions, the original and the result in turns.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "models"))

from cache import materialize  # noqa: E402
from registry import model as reference  # noqa: E402

import onnxopt  # noqa: E402
from onnxopt.runtime.inputs.plan import plan_inputs  # noqa: E402
from onnxopt.runtime.measuring.speed import measure_speed  # noqa: E402

_ASKED = 0.7
_SECONDS = 20.0
_SHAPES = {
    "resnet50_ts": {"pixel_values": (1, 3, 224, 224)},
    "vit_tiny_dynamo": {"pixel_values": (1, 3, 224, 224)},
    "minilm_ts": dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), (1, 128)),
}


def main() -> None:
    print("| model | asked | got (95 %) | got / asked | met |")
    print("|---|---|---|---|---|")
    for name in sys.argv[1:] or list(_SHAPES):
        path = materialize(reference(name))
        result = onnxopt.prune(
            path,
            target_latency=_ASKED,
            importance="l2",
            repair=False,
            input_shapes=_SHAPES[name],
        )
        whole = onnxopt.optimize(path, guard="off").model
        plan = plan_inputs(whole, input_shapes=_SHAPES[name])
        sets = [plan.build(plan.wanted(0), 0)]
        ratio = measure_speed(whole, result.model, sets, _SECONDS)
        left, low, high = 1 / ratio.median, 1 / ratio.high, 1 / ratio.low
        met = abs(left / _ASKED - 1) <= 0.05
        print(
            f"| {name} | {_ASKED} | {left:.3f} ({low:.3f} to {high:.3f}) | {left / _ASKED:.3f} "
            f"| {'yes' if met else 'no'} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
