"""Loads a model, runs it once and prints what that cost as JSON. A script, run in a new process.

    python -P load_probe.py MODEL OPTIONS FEEDS

OPTIONS is JSON: providers, threads (or null), level, disabled. FEEDS is a .npz file, or empty for
no run. It imports ONNX Runtime and NumPy alone, so that little else counts as memory.
"""

import json
import sys
import time

import numpy as np
import onnxruntime


def memory(field: str) -> int:
    """Bytes in a field of /proc/self/status; 0 where there is no such file.

    A child's `ru_maxrss` starts at what its parent held; this does not.
    """
    try:
        with open("/proc/self/status") as file:  # noqa: PTH123  (pathlib is memory too)
            lines = [line for line in file if line.startswith(f"{field}:")]
    except OSError:
        return 0
    return int(lines[0].split()[1]) * 1024 if lines else 0


def main() -> None:
    """Measures and prints."""
    model, wanted, feeds_path = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    level = getattr(onnxruntime.GraphOptimizationLevel, wanted["level"])
    options.graph_optimization_level = level
    if wanted["threads"] is not None:
        options.intra_op_num_threads = wanted["threads"]
    feeds = dict(np.load(feeds_path, allow_pickle=False)) if feeds_path else {}
    before = memory("VmRSS")
    start = time.perf_counter()
    session = onnxruntime.InferenceSession(
        model, options, providers=wanted["providers"], disabled_optimizers=wanted["disabled"]
    )
    loaded = time.perf_counter()
    if feeds:
        session.run(None, feeds)
    figures = {
        "load_seconds": loaded - start,
        "first_run_seconds": time.perf_counter() - loaded,
        "peak_bytes": memory("VmHWM"),
        "base_bytes": before,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
