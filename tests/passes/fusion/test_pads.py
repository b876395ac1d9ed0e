"""FusePads: every node that pads itself, every spelling of Pad, and all that must stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.rewriting import assert_refuses, assert_rewrites, parse_model
from numpy.typing import NDArray

from onnxopt.passes.fusion.pads import FusePads

RNG = np.random.default_rng(0)
P4 = "int64[8] p = {0, 0, 1, 2, 0, 0, 0, 1}"


def normal(*shape: int, dtype: Any = np.float32) -> NDArray[Any]:
    return RNG.standard_normal(shape).astype(dtype)


@pytest.mark.parametrize(
    ("opset", "pad", "initializers"),
    [
        (7, "Pad <pads = [0, 0, 1, 2, 0, 0, 0, 1]> (x)", ""),
        (10, 'Pad <mode = "constant", value = 0.0, pads = [0, 0, 1, 2, 0, 0, 0, 1]> (x)', ""),
        (11, "Pad(x, p)", f"<{P4}>"),
        (13, "Pad(x, p, z)", f"<{P4}, float z = {{0}}>"),
        (18, "Pad(x, p, , a)", "<int64[4] p = {1, 2, 0, 1}, int64[2] a = {2, 3}>"),
        (21, "Pad(x, p, z, a)", "<int64[4] p = {2, 1, 1, 0}, float z = {0}, int64[2] a = {-1, 2}>"),
    ],
)
@pytest.mark.parametrize("attributes", ["", "<pads = [1, 1, 1, 1]>", "<strides = [2, 2]>"])
def test_conv_pads_itself_in_every_spelling(
    opset: int, pad: str, initializers: str, attributes: str
) -> None:
    model = parse_model(
        f"""g (float[N,4,5,6] x) => (float[N,6,H,W] y) {initializers}
        {{ c = {pad} y = Conv {attributes} (c, w) }}""",
        {"w": normal(6, 4, 3, 3)},
        opset=opset,
    )
    assert_rewrites(FusePads(), model, expect=["Conv"], rewrites=1, rtol=1e-5, atol=1e-5)


def test_each_conv_pads_itself_when_they_share_a_pad() -> None:
    model = parse_model(
        f"""g (float[N,4,5,6] x) => (float[N,6,4,7] y, float[N,4,4,7] z) <{P4}> {{
            c = Pad(x, p)
            y = Conv(c, w)
            z = Conv <group = 4, auto_pad = "VALID"> (c, v)
        }}""",
        {"w": normal(6, 4, 3, 3), "v": normal(4, 1, 3, 3)},
    )
    assert_rewrites(FusePads(), model, expect=["Conv", "Conv"], rewrites=2, rtol=1e-5, atol=1e-5)


def test_pad_stays_for_the_graph_output_when_conv_takes_it_too() -> None:
    model = parse_model(
        f"""g (float[N,4,5,6] x) => (float[N,6,4,7] y, float[N,4,6,9] c) <{P4}>
        {{ c = Pad(x, p) y = Conv(c, w) }}""",
        {"w": normal(6, 4, 3, 3)},
    )
    assert_rewrites(FusePads(), model, expect=["Pad", "Conv"], rewrites=1, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("initializers", "pad", "attributes", "reason"),
    [
        (P4, 'Pad <mode = "reflect"> (x, p)', "", "mode reflect"),
        (P4 + ", float z = {1}", "Pad(x, p, z)", "", "fills with 1"),
        ("int64[8] p = {0, 0, -1, 0, 0, 0, 0, 0}", "Pad(x, p)", "", "crops"),
        ("int64[8] p = {0, 1, 0, 0, 0, 0, 0, 0}", "Pad(x, p)", "", "spatial"),
        ("int64[8] p = {0, 0, 0, 0, 1, 0, 0, 0}", "Pad(x, p)", "", "spatial"),
        (P4, "Pad(x, p)", '<auto_pad = "SAME_UPPER">', "auto_pad=SAME_UPPER"),
        (P4, "Pad(x, p, d)", "", "value of the Pad is not a constant"),
        (P4, "Pad(x, q)", "", "pads are not constants"),
        ("int64[4] p = {1, 1, 1, 1}", "Pad(x, p, , a)", "", "axes of the Pad"),
    ],
)
def test_pad_stays_when_the_conv_cannot_take_it(
    initializers: str, pad: str, attributes: str, reason: str
) -> None:
    model = parse_model(
        f"""g (float[1,4,5,6] x, float d, int64[8] q, int64[2] a) => (float[1,6,H,W] y)
        <{initializers}> {{ c = {pad} y = Conv {attributes} (c, w) }}""",
        {"w": normal(6, 4 + ("0, 1, 0" in initializers), 3, 3)},
    )
    assert_refuses(FusePads(), model, reason)


@pytest.mark.parametrize(
    ("attributes", "rewrites"),
    [
        ("kernel_shape = [3, 3]", 1),
        ("kernel_shape = [3, 3], strides = [2, 2], count_include_pad = 1", 1),
        ("kernel_shape = [4, 4], pads = [1, 1, 1, 1], count_include_pad = 1", 1),
    ],
)
@pytest.mark.parametrize("opset", [11, 19])
def test_average_pool_counts_the_zeros_it_takes_over(
    attributes: str, rewrites: int, opset: int
) -> None:
    model = parse_model(
        f"""g (float[N,4,7,8] x) => (float[N,4,H,W] y) <{P4}>
        {{ c = Pad(x, p) y = AveragePool <{attributes}> (c) }}""",
        opset=opset,
    )
    assert_rewrites(
        FusePads(), model, expect=["AveragePool"], rewrites=rewrites, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    ("pool", "reason"),
    [
        ("AveragePool <kernel_shape = [4, 4], pads = [1, 1, 1, 1]> (c)", "its own padding"),
        ("AveragePool <kernel_shape = [2, 2]> (c)", "size of the window"),
        ("AveragePool <kernel_shape = [3, 3], ceil_mode = 1> (c)", "rounds"),
        ("MaxPool <kernel_shape = [3, 3]> (c)", "can exceed"),
        ("MaxPool <kernel_shape = [2, 2]> (c)", "size of the window"),
    ],
)
def test_pad_stays_when_the_pool_cannot_take_it(pool: str, reason: str) -> None:
    model = parse_model(
        f"g (float[N,4,7,8] x) => (float[N,4,H,W] y) <{P4}> {{ c = Pad(x, p) y = {pool} }}"
    )
    assert_refuses(FusePads(), model, reason)


def test_max_pool_takes_zeros_when_nothing_is_negative() -> None:
    model = parse_model(
        f"""g (float[N,4,7,8] x) => (float[N,4,H,W] y) <{P4}>
        {{ r = Relu(x) c = Pad(r, p) y = MaxPool <kernel_shape = [3, 3], strides = [2, 2]> (c) }}"""
    )
    assert_rewrites(FusePads(), model, expect=["Relu", "MaxPool"], rewrites=1, rtol=0, atol=0)


def test_max_pool_keeps_zeros_when_it_is_dilated() -> None:
    model = parse_model(
        f"""g (float[N,4,7,8] x) => (float[N,4,H,W] y) <{P4}>
        {{ r = Relu(x) c = Pad(r, p) y = MaxPool <kernel_shape = [3,3], dilations = [2,2]> (c) }}"""
    )
    assert_refuses(FusePads(), model, "can exceed")


def test_max_pool_takes_minus_infinity() -> None:
    model = parse_model(
        f"""g (float[N,4,7,8] x) => (float[N,4,H,W] y) <{P4}>
        {{ c = Pad(x, p, z) y = MaxPool <kernel_shape = [3, 3]> (c) }}""",
        {"z": np.asarray(-np.inf, np.float32)},
    )
    assert_rewrites(FusePads(), model, expect=["MaxPool"], rewrites=1, rtol=0, atol=0)


def test_max_pool_keeps_minus_infinity_when_a_window_can_miss_the_input() -> None:
    """The only window reads the four corners of the padding; the runtime's own is -3.4e38."""
    model = parse_model(
        """g (float[1,1,3,3] x) => (float[1,1,1,1] y) <int64[8] p = {0, 0, 1, 1, 0, 0, 1, 1}>
        { c = Pad(x, p, z) y = MaxPool <kernel_shape = [2, 2], dilations = [4, 4]> (c) }""",
        {"z": np.asarray(-np.inf, np.float32)},
    )
    assert_refuses(FusePads(), model, "can miss the input")
    assert_rewrites(
        FusePads(), model, expect=["Pad", "MaxPool"], rewrites=0, rtol=0, atol=0,
    )  # fmt: skip


def test_max_pool_takes_the_lowest_integer_when_it_is_dilated() -> None:
    model = parse_model(
        """g (int8[1,1,3,3] x) => (int8[1,1,1,1] y)
        <int64[8] p = {0, 0, 1, 1, 0, 0, 1, 1}, int8 z = {-128}>
        { c = Pad(x, p, z) y = MaxPool <kernel_shape = [2, 2], dilations = [4, 4]> (c) }"""
    )
    assert_rewrites(FusePads(), model, expect=["MaxPool"], rewrites=1, rtol=0, atol=0)


def test_max_pool_keeps_the_pad_when_its_indices_are_used() -> None:
    model = parse_model(
        f"""g (float[N,4,7,8] x) => (float[N,4,H,W] y, int64[N,4,H,W] i) <{P4}>
        {{ c = Pad(x, p, z) y, i = MaxPool <kernel_shape = [3, 3]> (c) }}""",
        {"z": np.asarray(-np.inf, np.float32)},
    )
    assert_refuses(FusePads(), model, "indices")


@pytest.mark.parametrize("value", [7, 0])
def test_integer_conv_takes_the_zero_point_only(value: int) -> None:
    model = parse_model(
        f"""g (uint8[N,4,5,6] x) => (int32[N,6,H,W] y)
        <{P4}, uint8 z = {{7}}, uint8 v = {{{value}}}>
        {{ c = Pad(x, p, v) y = ConvInteger(c, w, z) }}""",
        {"w": RNG.integers(0, 9, (6, 4, 3, 3)).astype(np.uint8)},
    )
    if value == 7:
        assert_rewrites(FusePads(), model, expect=["ConvInteger"], rewrites=1, rtol=0, atol=0)
    else:
        assert_refuses(FusePads(), model, "fills with 0")


def test_quantized_conv_takes_the_zero_point() -> None:
    model = parse_model(
        f"""g (uint8[N,4,5,6] x) => (uint8[N,6,H,W] y)
        <{P4}, uint8 z = {{7}}, float s = {{0.1}}, int8 wz = {{0}}>
        {{ c = Pad(x, p, z) y = QLinearConv(c, s, z, w, s, wz, s, z) }}""",
        {"w": RNG.integers(-9, 9, (6, 4, 3, 3)).astype(np.int8)},
    )
    assert_rewrites(FusePads(), model, expect=["QLinearConv"], rewrites=1, rtol=0, atol=0)


@pytest.mark.parametrize(("name", "dtype"), [("float16", np.float16), ("double", np.float64)])
def test_other_float_types_are_folded(name: str, dtype: Any) -> None:
    model = parse_model(
        f"g ({name}[N,4,5] x) => ({name}[N,4,5] y) <int64[6] p = {{0, 0, 1, 0, 0, 1}}>"
        " { c = Pad(x, p) y = AveragePool <kernel_shape = [3]> (c) }",
        opset=15,
    )
    assert sum(FusePads()(model).rewrites.values()) == 1


def test_subgraph_is_rewritten_when_the_pattern_lies_inside() -> None:
    model = parse_model(
        f"""g (float[N,4,5,6] x, bool k) => (float[N,6,H,W] y) <{P4}, float[1] w = {{0}}> {{
            y = If (k) <
                then_branch = a () => (float[N,6,H,W] t) {{ c = Pad(x, p) t = Conv(c, w) }},
                else_branch = e () => (float[N,6,H,W] q) {{ q = Conv(x, w) }}
            >
        }}""",
        {"w": normal(6, 4, 3, 3)},
    )
    assert_rewrites(FusePads(), model, expect=["If"], rewrites=1, rtol=1e-5, atol=1e-5)
