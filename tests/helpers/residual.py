"""Small residual networks in the forms in which exporters write them; branches can be silent."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from helpers.rewriting import parse_model
from numpy.typing import NDArray

WIDTH, WIDE = 8, 16


def _draw(shapes: dict[str, tuple[int, ...]], silent: tuple[str, ...]) -> dict[str, NDArray]:  # type: ignore[type-arg]
    rng = np.random.default_rng(3)
    return {
        name: np.asarray(
            rng.standard_normal(shape) * (0.0 if name in silent else shape[-1] ** -0.5), np.float32
        )
        for name, shape in shapes.items()
    }


def encoder(layers: int = 2, *, silent: tuple[str, ...] = (), style: str = "pre") -> ir.Model:
    """Attention and a feed-forward in each layer; the feed-forward's last weight is `down0`, ...

    Args:
        layers: How many.
        silent: Names of weights that are zero: `out0`, `down0`, ...
        style: "pre" or "post" for where normalizations stand; "fused" as "post", and "skip" as
            "pre", with SkipLayerNormalization.
    """
    shapes: dict[str, tuple[int, ...]] = {"head": (WIDTH, 3)}
    text = ""
    stream = "x"
    norm = "LayerNormalization({x}, one, zero)"
    if style in ("post", "fused"):
        text += "e = LayerNormalization(x, one, zero)"
        stream = "e"
    elif style == "skip":
        text += "x_n = LayerNormalization(x, one, zero)"
    for i in range(layers):
        shapes |= {f"{n}{i}": (WIDTH, WIDTH) for n in ("query", "value", "out")}
        shapes |= {f"up{i}": (WIDTH, WIDE), f"down{i}": (WIDE, WIDTH)}
        for part in ("a", "f"):
            t, s = f"{part}{i}", f"s{part}{i}"
            if style == "pre":
                text += f" {t}_n = {norm.format(x=stream)}"
            given = f"{t}_n" if style == "pre" else f"{stream}_n" if style == "skip" else stream
            if part == "a":
                text += f""" {t}_q = MatMul({given}, query{i}) {t}_v = MatMul({given}, value{i})
                    {t}_t = Transpose<perm=[0,2,1]>({given}) {t}_l = MatMul({t}_q, {t}_t)
                    {t}_w = Softmax<axis=-1>({t}_l) {t}_m = MatMul({t}_w, {t}_v)
                    {t}_o = MatMul({t}_m, out{i})"""
            else:
                text += f""" {t}_u = MatMul({given}, up{i}) {t}_r = Relu({t}_u)
                    {t}_o = MatMul({t}_r, down{i})"""
            if style == "fused":
                text += f" {s} = com.microsoft.SkipLayerNormalization({stream}, {t}_o, one, zero)"
            elif style == "skip":
                text += (
                    f" {s}_n, {s}_1, {s}_2, {s} ="
                    f" com.microsoft.SkipLayerNormalization({stream}, {t}_o, one, zero)"
                )
            elif style == "post":
                text += f" {s}_s = Add({t}_o, {stream}) {s} = {norm.format(x=f'{s}_s')}"
            else:
                text += f" {s} = Add({stream}, {t}_o)"
            stream = s
    weights = _draw(shapes, silent)
    weights |= {"one": np.ones(WIDTH, np.float32), "zero": np.zeros(WIDTH, np.float32)}
    model: ir.Model = parse_model(
        f"g (float[N,4,{WIDTH}] x) => (float[N,4,3] y) {{ {text} y = MatMul({stream}, head) }}",
        weights,
    )
    for node in model.graph:
        node.name = node.outputs[0].name
    return model


def resnet(*, silent: tuple[str, ...] = ()) -> ir.Model:
    """A stem, a block, a block with a projection, and another block."""
    text = "x0 = Conv(x, stem) r0 = Relu(x0)"
    shapes: dict[str, tuple[int, ...]] = {"stem": (6, 3, 1, 1), "wide": (8, 6, 1, 1)}
    for i, (before, after) in enumerate(((6, 6), (6, 8), (8, 8))):
        shapes |= {f"one{i}": (5, before, 3, 3), f"two{i}": (after, 5, 3, 3)}
        shapes |= {f"bias{i}": (after,)}
        skip = f"r{i}"
        if before != after:
            text += f" p{i} = Conv(r{i}, wide)"
            skip = f"p{i}"
        text += f""" c{i} = Conv<pads=[1,1,1,1]>(r{i}, one{i}) d{i} = Relu(c{i})
            o{i} = Conv<pads=[1,1,1,1]>(d{i}, two{i}, bias{i}) s{i} = Add(o{i}, {skip})
            r{i + 1} = Relu(s{i})"""
    shapes |= {"head": (3, 8)}
    text += " m = GlobalAveragePool(r3) f = Flatten(m) y = Gemm<transB=1>(f, head)"
    model: ir.Model = parse_model(
        f"g (float[N,3,5,5] x) => (float[N,3] y) {{ {text} }}", _draw(shapes, silent)
    )
    for node in model.graph:
        node.name = node.outputs[0].name
    return model
