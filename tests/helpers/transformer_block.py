"""A small transformer block as exporters write it, in single operators of the standard."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common
from helpers.rewriting import parse_model
from numpy.typing import NDArray

HEADS, SIZE, WIDE = 2, 8, 32
WIDTH = HEADS * SIZE
# What it holds.
EXPECTED = {
    "MultiHeadAttention": 1, "RotaryEmbedding": 2, "LayerNormalization": 1,
    "SkipLayerNormalization": 1, "BiasGelu": 1, "Softmax": 0, "Erf": 0, "ReduceMean": 0,
}  # fmt: skip

_NORM = """
{n}_u = ReduceMean({x}, last) {n}_d = Sub({x}, {n}_u) {n}_q = Pow({n}_d, two)
{n}_v = ReduceMean({n}_q, last) {n}_w = Add({n}_v, epsilon) {n}_s = Sqrt({n}_w)
{n}_n = Div({n}_d, {n}_s) {n}_g = Mul({n}_n, {n}_scale) {n} = Add({n}_g, {n}_bias)
"""
_HEADS = """
{n}_p = MatMul({x}, {n}_weight) {n}_a = Add({n}_p, {n}_vector) {n}_s = Reshape({n}_a, split)
{n}_h = Transpose<perm = [0, 2, 1, 3]>({n}_s)
"""
_ROTATED = """
{n}_1, {n}_2 = Split<axis = -1>({n}_h, halves) {n}_m = Neg({n}_2)
{n}_t = Concat<axis = -1>({n}_m, {n}_1) {n}_x = Mul({n}_h, cos) {n}_y = Mul({n}_t, sin)
{n}_r = Add({n}_x, {n}_y)
"""
_BLOCK = f"""
{_NORM.format(n="first", x="x")}
{"".join(_HEADS.format(n=n, x="first") for n in "qkv")}
angles = Concat<axis = -1>(a, a) lifted = Unsqueeze(angles, one_1) cos = Cos(lifted)
sin = Sin(lifted)
{_ROTATED.format(n="q")} {_ROTATED.format(n="k")}
kt = Transpose<perm = [0, 1, 3, 2]>(k_r) product = MatMul(q_r, kt) scaled = Mul(product, factor)
masked = Add(scaled, mask) weights = Softmax<axis = -1>(masked) mixed = MatMul(weights, v_h)
back = Transpose<perm = [0, 2, 1, 3]>(mixed) merged = Reshape(back, merge)
o_p = MatMul(merged, o_weight) o_a = Add(o_p, o_vector) residual = Add(x, o_a)
{_NORM.format(n="second", x="residual")}
up_p = MatMul(second, up_weight) up = Add(up_p, up_vector)
e_d = Div(up, root) e = Erf(e_d) e_s = Add(e, one) e_m = Mul(up, e_s) gelu = Mul(e_m, half)
down_p = MatMul(gelu, down_weight) down = Add(down_p, down_vector) y = Add(residual, down)
"""


def block() -> ir.Model:
    """Inputs x `[N, S, 16]`, angles a `[N, S, 4]` and a mask `[N, 1, S, S]`; output y as x."""
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> NDArray[np.float32]:
        return np.asarray(rng.standard_normal(shape) / np.sqrt(shape[0]), np.float32)

    weights = {f"{n}_weight": draw(WIDTH, WIDTH) for n in "qkvo"}
    weights |= {f"{n}_vector": draw(WIDTH) for n in "qkvo"}
    weights |= {f"{n}_{part}": 1 + draw(WIDTH) for n in ("first", "second") for part in ("scale",)}
    weights |= {f"{n}_bias": draw(WIDTH) for n in ("first", "second")}
    weights |= {"up_weight": draw(WIDTH, WIDE), "up_vector": draw(WIDE)}
    weights |= {"down_weight": draw(WIDE, WIDTH), "down_vector": draw(WIDTH)}
    numbers = {"two": 2.0, "epsilon": 1e-5, "factor": SIZE**-0.5, "root": 2**0.5, "one": 1.0}
    integers = {
        "last": [-1], "split": [0, 0, HEADS, SIZE], "merge": [0, 0, WIDTH], "one_1": [1],
        "halves": [SIZE // 2, SIZE // 2],
    }  # fmt: skip
    weights |= {
        name: np.array(item, np.float32) for name, item in (numbers | {"half": 0.5}).items()
    }
    weights |= {name: np.array(item, np.int64) for name, item in integers.items()}
    model: ir.Model = parse_model(
        f"g (float[N,S,{WIDTH}] x, float[N,S,{SIZE // 2}] a, float[N,1,S,S] mask) => "
        f"(float[N,S,{WIDTH}] y) {{ {_BLOCK} }}",
        weights,
        opset=20,
    )
    for node in model.graph:
        node.name = node.outputs[0].name
    ir.passes.common.ShapeInferencePass()(model)
    return model
