"""Peak memory of `onnxopt diagnose` on a model with large weights and a faulty copy.

    python benchmarks/diagnose_memory.py MODEL.onnx

The copy shares the weights file; one MatMul of it has its inputs negated. Prints seconds, the peak
resident memory, and how much that is beyond both models.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import onnx

_CHILD = """
import resource, sys
from onnxopt.cli import main
try:
    main()
finally:
    print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, file=sys.stderr)
"""


def faulty_copy(path: Path) -> Path:
    """A copy beside the model, whose weights it shares, with a Neg before a MatMul."""
    proto = onnx.load(path, load_external_data=False)
    nodes = list(proto.graph.node)
    index = [i for i, node in enumerate(nodes) if node.op_type == "MatMul"][-1]
    source = nodes[index].input[0]
    nodes[index].input[0] = "negated"
    nodes.insert(index, onnx.helper.make_node("Neg", [source], ["negated"], name="planted"))
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    copy = path.with_name(f"{path.stem}_faulty.onnx")
    onnx.save(proto, copy)
    return copy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    path = parser.parse_args().model
    copy = faulty_copy(path)
    size = 2 * sum(one.stat().st_size for one in path.parent.iterdir() if one.suffix != ".onnx")
    try:
        for command in (["diagnose"], ["diagnose", "--all"]):
            start = time.perf_counter()
            found = subprocess.run(
                [sys.executable, "-c", _CHILD, *command, str(path), str(copy)],
                capture_output=True,
                text=True,
                check=False,
            )
            seconds = time.perf_counter() - start
            peak = int(found.stderr.split()[-1])
            print(
                f"{' '.join(command)}: exit code {found.returncode}, {seconds:.0f} s, peak "
                f"{peak / 2**30:.2f} GiB, {(peak - size) / 2**20:+.0f} MiB beyond both models",
                flush=True,
            )
    finally:
        copy.unlink()


if __name__ == "__main__":
    main()
