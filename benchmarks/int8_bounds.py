"""How fast INT8 can make a model on this CPU at most, by the runtime's own profile.

    python benchmarks/int8_bounds.py FOLDER [--models NAME ...] [--mode static|dynamic]

Each model is quantized as a whole (--force, without a limit of error) and profiled before and
after, on one thread. Products are Conv, MatMul, Gemm, LSTM and attention and their integer forms,
as far as the runtime fuses them. Three figures for each model:

    kernels   how many times as fast its products became
    bound     its speed if everything else (conversions, Softmax, normalizations) took no time
    rest      its speed if the products took the time they take now, and all else what it took
              in float: no conversion cost anything

A form that keeps some products in float for accuracy stays under that. FOLDER is as for
int8_real_models.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
from int8_real_models import feeds_of, runnable, synthesized

import onnxopt
from onnxopt.core.errors import OnnxOptError
from onnxopt.runtime.measuring.profiling import Profile, profile_model
from onnxopt.runtime.session import open_session

PRODUCTS = frozenset(
    {
        *("Conv", "FusedConv", "ConvTranspose", "QLinearConv", "ConvInteger", "LSTM"),
        *("MatMul", "FusedMatMul", "Gemm", "FusedGemm", "QLinearMatMul", "QGemm", "GRU"),
        *("MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"),
        *("DynamicQuantizeLSTM", "Attention", "MultiHeadAttention", "QAttention"),
    }
)
_SECONDS = 4.0
_LISTED = 4


def profiled(model: ir.Model, feeds: Mapping[str, Any]) -> Profile:
    """Where the time of one thread goes."""
    return profile_model(
        lambda prefix: open_session(model, threads=1, profile_prefix=prefix),
        feeds,
        seconds=_SECONDS,
    )


def in_products(profile: Profile) -> float:
    """Seconds in products per run."""
    return sum(cost.seconds for cost in profile.op_types if cost.op_type in PRODUCTS)


def largest(profile: Profile) -> str:
    """The types of operators that take most of the time."""
    parts = [
        f"{cost.op_type} {cost.seconds / profile.seconds:.0%}"
        for cost in profile.op_types[:_LISTED]
    ]
    return ", ".join(parts)


def report(name: str, before: Profile, after: Profile) -> str:
    """The lines of one model."""
    products, now = in_products(before), in_products(after)
    rest = before.seconds - products
    return (
        f"{name:28} {before.seconds / after.seconds:5.2f}x  kernels {products / now:5.2f}x  "
        f"bound {before.seconds / now:5.2f}x  rest {before.seconds / (now + rest):5.2f}x"
        f"\n{'':28} float {1e3 * before.seconds:8.2f} ms: {largest(before)}"
        f"\n{'':28} 8-bit {1e3 * after.seconds:8.2f} ms: {largest(after)}"
    )


def bounds(
    source: Path, feeds: Sequence[dict[str, Any]], mode: str, budget: float
) -> tuple[Profile, Profile]:
    """The profiles of the optimized float model and of the whole model in 8 bits."""
    optimized = onnxopt.optimize(source).model
    quantized = onnxopt.quantize(
        source, calibration=feeds, mode=mode, force=True, repair="none", budget=budget
    ).model
    return profiled(optimized, feeds[0]), profiled(quantized, feeds[0])


def main() -> None:
    """Prints three lines for each model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", nargs="+", default=[])
    parser.add_argument("--mode", choices=["static", "dynamic"], default="static")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--budget", type=float, default=60.0)
    arguments = parser.parse_args()
    real = feeds_of(arguments.folder, arguments.samples)
    for source in sorted(arguments.folder.rglob("*.onnx")):
        name = str(source.relative_to(arguments.folder))
        if arguments.models and not any(part in name for part in arguments.models):
            continue
        try:
            feeds = real.get(source) or synthesized(runnable(source), arguments.samples)
            pair = bounds(source, feeds, arguments.mode, arguments.budget)
        except OnnxOptError as error:
            print(f"{name:28} not measured: {error}", flush=True)
            continue
        print(report(name, *pair), flush=True)


if __name__ == "__main__":
    main()
