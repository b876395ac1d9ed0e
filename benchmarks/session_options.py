"""What ONNX Runtime's own rewriting on load costs or gains: optimization levels, single optimizers.

    python benchmarks/session_options.py MODEL.onnx ... [--threads 1] [--seconds 1]

For every model, as it is and optimized by onnxopt: the speed of each level, and without each
optimizer that changes the graph, against ONNX Runtime's defaults. Only what is proven (the 95 %
interval over three sessions each) is printed.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from pathlib import Path

import onnx

import onnxopt
from onnxopt.core.errors import OnnxOptError
from onnxopt.graph.loading import load_model
from onnxopt.runtime.binding import run_call
from onnxopt.runtime.inputs.bench_inputs import bench_inputs, plan_bench_inputs
from onnxopt.runtime.measuring.benchmark import paired_ratio
from onnxopt.runtime.session import Feeds, open_session
from onnxopt.runtime.session_settings import SessionSettings

_CONFIG = {"session.force_spinning_stop": "1"}
OPTIMIZERS = (
    "AttentionFusion", "BiasGeluFusion", "BiasSkipLayerNormFusion", "BiasSoftmaxFusion",
    "ConvActivationFusion", "ConvAddActivationFusion", "EmbedLayerNormFusion", "FastGeluFusion",
    "GatherSliceToSplitFusion", "GatherToSliceFusion", "GeluFusionL1", "GeluFusionL2",
    "GemmActivationFusion", "GroupQueryAttentionFusion", "LayerNormFusionL1", "LayerNormFusionL2",
    "MatMulActivationFusion", "MatMulAddFusion", "MatMulScaleFusion", "MatmulTransposeFusion",
    "NchwcTransformer", "NhwcTransformer", "QuickGeluFusion", "SimplifiedLayerNormFusion",
    "SkipLayerNormFusion", "SwiGluFusion", "TransposeOptimizer",
)  # fmt: skip


def operators(model: Path, settings: SessionSettings) -> Counter[str]:
    """Nodes by operator, as ONNX Runtime has rewritten the model."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "rewritten.onnx")
        open_session(
            model, optimization=settings.optimization,
            disabled_optimizers=settings.disabled_optimizers, optimized_path=target,
        )  # fmt: skip
        graph = onnx.load(target, load_external_data=False).graph
    return Counter(node.op_type for node in graph.node)


def proven(model: Path, feeds: Feeds, threads: int, seconds: float) -> list[str]:
    """Lines of what is proven faster or slower than the defaults."""
    base = SessionSettings(threads=threads, config=_CONFIG)
    usual = operators(model, base)
    candidates = [SessionSettings(threads=threads, config=_CONFIG, optimization=level)
                  for level in ("extended", "basic", "disabled")]  # fmt: skip
    for name in OPTIMIZERS:
        one = SessionSettings(threads=threads, config=_CONFIG, disabled_optimizers=(name,))
        if operators(model, one) != usual:
            candidates.append(one)
    lines = []
    for candidate in candidates:
        first, second = (
            [run_call(each.open(model), feeds, device="cpu") for _ in range(3)]
            for each in (base, candidate)
        )
        ratio = paired_ratio(first, second, seconds=seconds, longest=3)
        words = ", ".join(candidate.changes(base))
        lines.append(f"    {ratio.verdict:14} {ratio}  {words}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--all", action="store_true", help="print what is not proven, too")
    arguments = parser.parse_args()
    for path in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            ours = Path(folder, path.name)
            files = [path]
            try:
                onnxopt.optimize(path, ours)
                files.append(ours)
            except OnnxOptError as error:
                print(f"{path.name}: not optimized: {error}")
            for file in files:
                print(path.name, "optimized" if file is ours else "as it is", flush=True)
                try:
                    plan = plan_bench_inputs(load_model(file), None)
                    one = bench_inputs(open_session(file), plan)
                    lines = proven(file, one.feeds, arguments.threads, arguments.seconds)
                except OnnxOptError as error:
                    lines = [f"    {error}"]
                shown = [one for one in lines if arguments.all or "no difference" not in one]
                print(*shown or ["    nothing is proven"], sep="\n", flush=True)


if __name__ == "__main__":
    main()
