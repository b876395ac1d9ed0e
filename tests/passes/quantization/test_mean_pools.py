"""`PoolQuantizedMeans`: a quantized mean over the image becomes GlobalAveragePool."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers.rewriting import assert_rewrites, parse_model

from onnxopt.graph.inference import infer_model
from onnxopt.passes.quantization.mean_pools import PoolQuantizedMeans

STEP = 0.02
WEIGHTS = {"s": np.array(STEP, np.float32), "z": np.array(3, np.uint8)}
NODES = "d = DequantizeLinear(x, s, z) {mean} q = QuantizeLinear(m, s, z) {rest}"
BEHIND = "y = DequantizeLinear(q, s, z)"
KEPT = "m = ReduceMean(d, axes)"
DROPPED = "m = ReduceMean <keepdims = 0> (d, axes)"
# A mean that lies between two steps may be rounded to the other one.
ONE_STEP = STEP * 1.01


def model_of(
    mean: str,
    out: str,
    rest: str = BEHIND,
    opset: int = 18,
    shape: str = "N, 3, 5, 4",
    axes: tuple[int, ...] = (2, 3),
) -> ir.Model:
    given = {"axes": np.array(axes, np.int64)} if "axes)" in mean else {}
    model = parse_model(
        f"g (uint8[{shape}] x) => ({out}) {{ {NODES.format(mean=mean, rest=rest)} }}",
        WEIGHTS | given,
        opset=opset,
    )
    infer_model(model)
    return model


@pytest.mark.parametrize("axes", [(2, 3), (-1, -2)])
def test_mean_is_a_pool_when_axes_are_kept(axes: tuple[int, ...]) -> None:
    model = model_of(KEPT, "float[N, 3, 1, 1] y", axes=axes)
    expect = ["DequantizeLinear", "GlobalAveragePool", "QuantizeLinear", "DequantizeLinear"]
    assert_rewrites(PoolQuantizedMeans(), model, expect=expect, rewrites=1, rtol=0, atol=ONE_STEP)


def test_pool_is_squeezed_behind_the_quantization_when_axes_are_dropped() -> None:
    model = model_of(DROPPED, "float[N, 3] y")
    expect = ["DequantizeLinear", "GlobalAveragePool", "QuantizeLinear", "Squeeze"]
    expect += ["DequantizeLinear"]
    assert_rewrites(PoolQuantizedMeans(), model, expect=expect, rewrites=1, rtol=0, atol=ONE_STEP)


def test_axes_may_be_an_attribute_when_opset_is_older() -> None:
    model = model_of("m = ReduceMean <axes = [2, 3]> (d)", "float[N, 3, 1, 1] y", opset=13)
    assert_rewrites(PoolQuantizedMeans(), model, expect=None, rewrites=1, rtol=0, atol=ONE_STEP)


def test_sequence_and_volume_are_pooled_alike() -> None:
    line = model_of(KEPT, "float[N, 3, 1] y", shape="N, 3, 9", axes=(2,))
    volume = model_of(DROPPED, "float[N, 3] y", shape="N, 3, 2, 4, 3", axes=(2, 3, 4))
    for model in (line, volume):
        assert_rewrites(PoolQuantizedMeans(), model, expect=None, rewrites=1, rtol=0, atol=ONE_STEP)


def test_mean_in_a_subgraph_is_pooled() -> None:
    model = parse_model(
        f"""g (uint8[N, 3, 5, 4] x, bool c) => (float[N, 3, 1, 1] r)
        <float[1] s = {{0}}, uint8[1] z = {{0}}, int64[1] axes = {{0}}>
        {{ r = If (c) <
          then_branch = t () => (float[N, 3, 1, 1] y) {{ {NODES.format(mean=KEPT, rest=BEHIND)} }},
          else_branch = e () => (float[N, 3, 1, 1] v)
            {{ f = DequantizeLinear(x, s, z) v = GlobalMaxPool(f) }}
        > }}""",
        WEIGHTS | {"axes": np.array([2, 3], np.int64)},
    )
    infer_model(model)
    assert_rewrites(PoolQuantizedMeans(), model, expect=["If"], rewrites=1, rtol=0, atol=ONE_STEP)


@pytest.mark.parametrize(
    ("axes", "out"), [((1,), "float[N, 1, 5, 4] y"), ((1, 2, 3), "float[N, 1, 1, 1] y")]
)
def test_stays_when_axes_are_others(axes: tuple[int, ...], out: str) -> None:
    assert not PoolQuantizedMeans()(model_of(KEPT, out, axes=axes)).modified


def test_stays_when_the_mean_has_another_reader_or_is_an_output() -> None:
    reader = model_of(KEPT, "float[N, 3, 1, 1] y, float[N, 3, 1, 1] k", f"{BEHIND} k = Neg(m)")
    output = model_of(KEPT, "float[N, 3, 1, 1] y, float[N, 3, 1, 1] m")
    for model in (reader, output):
        assert not PoolQuantizedMeans()(model).modified


def test_stays_when_the_mean_reads_float() -> None:
    model = parse_model(
        """g (float[N, 3, 5, 4] d) => (uint8[N, 3, 1, 1] q)
        { m = ReduceMean(d, axes) q = QuantizeLinear(m, s, z) }""",
        WEIGHTS | {"axes": np.array([2, 3], np.int64)},
    )
    assert not PoolQuantizedMeans()(model).modified
