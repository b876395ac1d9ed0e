"""Products of two activations on integers: the core of an attention, float and static.

    python benchmarks/int8_attention.py [--seconds 4] [--isa avx2|vnni]

softmax(Q K' / sqrt(d)) V of random Q, K and V, quantized by InsertQdq(products=True) on their own
ranges, at shapes of small and base encoders. One thread. Beside the speed the largest error of the
output relative to its largest element.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import onnx_ir as ir
from measuring import latency_ratios, open_session

from onnxopt.calibration.collecting import collect
from onnxopt.calibration.data import open_data
from onnxopt.graph.calibrated import Ranges
from onnxopt.graph.quantization import Encoding
from onnxopt.passes.quantization import InsertQdq
from onnxopt.quantizing.forms import observed_names
from onnxopt.targets import Target

# Tokens, heads, channels of a head.
_SHAPES = [(64, 12, 32), (128, 12, 32), (128, 12, 64), (197, 3, 64), (512, 12, 64)]


def core(tokens: int, heads: int, size: int) -> ir.Model:
    """The attention."""
    inputs = ", ".join(f"float[1, {tokens}, {heads * size}] {name}" for name in "qkv")
    split = "\n".join(
        f"{name}s = Reshape({name}, heads) {name}h = Transpose<perm = [{perm}]>({name}s)"
        for name, perm in (("q", "0, 2, 1, 3"), ("k", "0, 2, 3, 1"), ("v", "0, 2, 1, 3"))
    )
    return ir.from_onnx_text(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        g ({inputs}) => (float[1, {tokens}, {heads * size}] y) {{
            heads = Constant<value = int64[4] {{0, 0, {heads}, {size}}}>()
            merged = Constant<value = int64[3] {{0, 0, {heads * size}}}>()
            scale = Constant<value = float {{{size**-0.5}}}>()
            {split}
            s = MatMul(qh, kh) c = Mul(s, scale) p = Softmax<axis = -1>(c)
            m = MatMul(p, vh) t = Transpose<perm = [0, 2, 1, 3]>(m) y = Reshape(t, merged)
        }}"""
    )


def main() -> None:
    """Measures every shape."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--isa", default="avx2")
    arguments = parser.parse_args()
    reduce_range = Target("cpu", isa=arguments.isa).eight_bit_products_saturate
    rng = np.random.default_rng(0)
    print("| tokens | heads | channels | speed | largest error |\n|---|---|---|---|---|")
    for tokens, heads, size in _SHAPES:
        model = core(tokens, heads, size)
        shape = (1, tokens, heads * size)
        feeds = {name: rng.standard_normal(shape).astype(np.float32) for name in "qkv"}
        names = observed_names(model, products=True)
        ranges = Ranges(
            collect(model, names, open_data([feeds], model)).ranges("min-max", Encoding())
        )
        quantized = model.clone()
        InsertQdq(ranges=ranges, products=True, reduce_range=reduce_range)(quantized)
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder, name) for name in ("float.onnx", "int8.onnx")]
            for one, path in zip((model, quantized), paths, strict=True):
                ir.save(one, path)
            base, other = (open_session(path, 1) for path in paths)
        expected, found = (one.run(None, feeds)[0] for one in (base, other))
        error = np.abs(expected - found).max() / np.abs(expected).max()
        ((speed, low, high),) = latency_ratios(base, [other], feeds, seconds=arguments.seconds)
        print(
            f"| {tokens} | {heads} | {size} | {speed:.2f} ({low:.2f} to {high:.2f}) "
            f"| {error:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
