"""FuseConvBatchNorm: every producer, the layouts between, and what must not be folded."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from helpers.rewriting import assert_refuses, assert_rewrites, parse_model
from numpy.typing import NDArray

from onnxopt.passes.fusion.conv_batch_norm import FuseConvBatchNorm

Array = NDArray[Any]
RNG = np.random.default_rng(0)


def normal(*shape: int, dtype: Any = np.float32) -> Array:
    return RNG.standard_normal(shape).astype(dtype)


def statistics(channels: int, dtype: Any = np.float32) -> dict[str, Array]:
    return {
        "s": normal(channels, dtype=dtype),
        "t": normal(channels, dtype=dtype),
        "m": normal(channels, dtype=dtype),
        "v": (RNG.random(channels) + 0.5).astype(dtype),
    }


BN = "BatchNormalization(c, s, t, m, v)"


@pytest.mark.parametrize(
    ("op", "weight", "bias", "group"),
    [
        ("Conv", (6, 4, 3, 3), None, 1),
        ("Conv", (6, 4, 3, 3), 6, 1),
        ("Conv", (6, 2, 3, 3), 6, 2),
        ("Conv", (4, 1, 3, 3), None, 4),
        ("ConvTranspose", (4, 3, 3, 3), None, 2),
        ("ConvTranspose", (4, 6, 2, 2), 6, 1),
        ("ConvTranspose", (4, 1, 3, 3), 4, 4),
    ],
)
def test_conv_is_rescaled_when_it_comes_first(
    op: str, weight: tuple[int, ...], bias: int | None, group: int
) -> None:
    channels = weight[0] if op == "Conv" else weight[1] * group
    weights = {"w": normal(*weight), **statistics(channels)}
    if bias is not None:
        weights["b"] = normal(bias)
    model = parse_model(
        f"""g (float[N,4,8,8] x) => (float[N,{channels},H,W] y) {{
            c = {op} <group = {group}> (x, w{", b" if bias else ""})
            y = BatchNormalization <epsilon = 0.01> (c, s, t, m, v)
        }}""",
        weights,
    )
    assert_rewrites(FuseConvBatchNorm(), model, expect=[op], rewrites=1, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("opset", [7, 8, 9, 13, 14, 15, 21])
def test_conv_is_rescaled_when_the_opset_changes(opset: int) -> None:
    model = parse_model(
        f"""g (float[N,3,H,W] x) => (float[N,4,H,W] y)
        {{ c = Conv <pads = [1,1,1,1]> (x, w) y = {BN} }}""",
        {"w": normal(4, 3, 3, 3), **statistics(4)},
        opset=opset,
    )
    sizes = [{"N": 2, "H": 5, "W": 7}]
    assert_rewrites(
        FuseConvBatchNorm(), model, expect=["Conv"], rewrites=1, rtol=1e-4, atol=1e-5, sizes=sizes
    )


@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm_is_rescaled_when_it_has_alpha_and_beta(transposed: int) -> None:
    model = parse_model(
        f"""g (float[N,5] x) => (float[N,4] y) {{
            c = Gemm <alpha = 0.5, beta = 2.0, transB = {transposed}> (x, w, b)
            y = {BN}
        }}""",
        {"w": normal(*((4, 5) if transposed else (5, 4))), "b": normal(1, 4), **statistics(4)},
    )
    assert_rewrites(FuseConvBatchNorm(), model, expect=["Gemm"], rewrites=1, rtol=1e-4, atol=1e-5)


def test_matmul_gets_an_add_when_it_has_none() -> None:
    model = parse_model(
        f"g (float[N,5] x) => (float[N,4] y) {{ c = MatMul(x, w) y = {BN} }}",
        {"w": normal(5, 4), **statistics(4)},
    )
    ir.passes.common.ShapeInferencePass()(model)
    expect = ["MatMul", "Add"]
    assert_rewrites(FuseConvBatchNorm(), model, expect=expect, rewrites=1, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("layout", "inner", "outer"),
    [
        ("Transpose <perm = [0, 2, 1]> (a)", "N,6,5", "N,4,6"),
        ("Reshape (a, shape)", "N,6,5", "M,4"),
        ("Unsqueeze (a, two)", "N,5", "N,4,1"),
    ],
)
def test_layout_operation_is_crossed_when_it_keeps_the_channels(
    layout: str, inner: str, outer: str
) -> None:
    model = parse_model(
        f"""g (float[{inner}] x) => (float[{outer}] y)
        <int64[2] shape = {{-1, 4}}, int64[1] two = {{2}}> {{
            p = MatMul(x, w) a = Add(b, p) c = {layout} y = {BN}
        }}""",
        {"w": normal(5, 4), "b": normal(4), **statistics(4)},
    )
    ir.passes.common.ShapeInferencePass()(model)
    expect = ["MatMul", "Add", layout.split()[0]]
    assert_rewrites(FuseConvBatchNorm(), model, expect=expect, rewrites=1, rtol=1e-4, atol=1e-5)


def test_features_stay_when_they_are_not_the_normalized_channels() -> None:
    model = parse_model(
        f"g (float[N,4,5] x) => (float[N,4,4] y) {{ c = MatMul(x, w) y = {BN} }}",
        {"w": normal(5, 4), **statistics(4)},
    )
    ir.passes.common.ShapeInferencePass()(model)
    assert_refuses(FuseConvBatchNorm(), model, "another axis than the features")


def test_channels_stay_when_a_transpose_moves_them() -> None:
    model = parse_model(
        f"""g (float[N,3,6,6] x) => (float[N,4,4,4] y)
        {{ a = Conv(x, w) c = Transpose <perm = [0, 2, 3, 1]> (a) y = {BN} }}""",
        {"w": normal(4, 3, 3, 3), **statistics(4)},
    )
    assert_refuses(FuseConvBatchNorm(), model, "another axis than the channels")


@pytest.mark.parametrize(
    ("dtype", "name", "tolerance"),
    [(np.float16, "float16", 2e-2), (np.float64, "double", 1e-12)],
)
def test_type_is_kept_when_weights_are_not_float(dtype: Any, name: str, tolerance: float) -> None:
    model = parse_model(
        f"g ({name}[N,5] x) => ({name}[N,4] y) {{ c = Gemm(x, w) y = {BN} }}",
        {"w": normal(5, 4, dtype=dtype), **statistics(4, dtype)},
        opset=15,
    )
    assert_rewrites(
        FuseConvBatchNorm(), model, expect=["Gemm"], rewrites=1, rtol=tolerance, atol=tolerance
    )


def test_bfloat16_is_folded_when_the_runtime_has_no_kernel() -> None:
    def cast(array: Array) -> ir.Tensor[Any]:
        return ir.Tensor(array.astype(ml_dtypes.bfloat16), dtype=ir.DataType.BFLOAT16)

    model = parse_model(
        f"g (bfloat16[N,5] x) => (bfloat16[N,4] y) {{ c = Gemm(x, w) y = {BN} }}",
        {"w": normal(5, 4), **statistics(4)},
    )
    for value in model.graph.initializers.values():
        assert value.const_value is not None
        value.const_value = cast(value.const_value.numpy())
        value.dtype = ir.DataType.BFLOAT16
    assert sum(FuseConvBatchNorm()(model).rewrites.values()) == 1
    weight = model.graph[0].inputs[1]
    assert weight is not None
    assert weight.dtype == ir.DataType.BFLOAT16


def test_float16_stays_when_it_would_overflow() -> None:
    weights = {"w": np.full((5, 4), 6e4, np.float16), **statistics(4, np.float16)}
    weights["s"] = np.full(4, 50, np.float16)
    model = parse_model(
        f"g (float16[N,5] x) => (float16[N,4] y) {{ c = Gemm(x, w) y = {BN} }}", weights
    )
    assert_refuses(FuseConvBatchNorm(), model, "leaves the range")


@pytest.mark.parametrize(
    ("opset", "attributes", "reason"),
    [(15, "training_mode = 1", "training mode"), (8, "spatial = 0", "spatial=0")],
)
def test_normalization_stays_when_its_mode_forbids(
    opset: int, attributes: str, reason: str
) -> None:
    model = parse_model(
        f"""g (float[N,3,6,6] x) => (float[N,4,4,4] y)
        {{ c = Conv(x, w) y = BatchNormalization <{attributes}> (c, s, t, m, v) }}""",
        {"w": normal(4, 3, 3, 3), **statistics(4)},
        opset=opset,
    )
    assert_refuses(FuseConvBatchNorm(), model, reason)


def test_normalization_stays_when_old_opsets_train_by_their_outputs() -> None:
    model = parse_model(
        """g (float[N,3,6,6] x) => (float[N,4,4,4] y)
        { c = Conv(x, w) y, a, b, d, e = BatchNormalization(c, s, t, m, v) }""",
        {"w": normal(4, 3, 3, 3), **statistics(4)},
        opset=9,
    )
    assert_refuses(FuseConvBatchNorm(), model, "training mode")


@pytest.mark.parametrize("unknown", ["w", "b", "s"])
def test_constants_are_required_when_folding(unknown: str) -> None:
    weights = {"w": normal(4, 3, 3, 3), "b": normal(4), **statistics(4)}
    kind = {"w": "float[4,3,3,3]", "b": "float[4]", "s": "float[4]"}[unknown]
    del weights[unknown]
    model = parse_model(
        f"""g (float[N,3,6,6] x, {kind} {unknown}) => (float[N,4,4,4] y)
        {{ c = Conv(x, w, b) y = {BN} }}""",
        weights,
    )
    assert_refuses(FuseConvBatchNorm(), model, "not a constant" if unknown != "s" else "statistics")


def test_middle_stays_when_it_is_a_graph_output() -> None:
    model = parse_model(
        f"""g (float[N,3,6,6] x) => (float[N,4,4,4] y, float[N,4,4,4] c)
        {{ c = Conv(x, w) y = {BN} }}""",
        {"w": normal(4, 3, 3, 3), **statistics(4)},
    )
    assert_refuses(FuseConvBatchNorm(), model, "other users")


def test_shared_weight_is_refused_when_a_second_one_is_large() -> None:
    text = f"""g (float[N,16,6,6] x) => (float[N,16,4,4] y, float[N,16,4,4] z)
        {{ c = Conv(x, w) y = {BN} z = Conv(x, w) }}"""
    model = parse_model(text, {"w": normal(16, 16, 3, 3), **statistics(16)})
    assert_refuses(FuseConvBatchNorm(), model, "share")


def test_shared_weight_is_kept_for_the_others_when_it_is_small() -> None:
    model = parse_model(
        f"""g (float[N,3,6,6] x) => (float[N,4,4,4] y, float[N,4,4,4] z)
        {{ c = Conv(x, w) y = {BN} z = Conv(x, w) }}""",
        {"w": normal(4, 3, 3, 3), **statistics(4)},
    )
    assert_rewrites(
        FuseConvBatchNorm(), model, expect=["Conv", "Conv"], rewrites=1, rtol=1e-4, atol=1e-5
    )


def test_shared_weight_is_folded_when_all_users_are_normalized_alike() -> None:
    model = parse_model(
        f"""g (float[N,16,6,6] x, float[N,16,6,6] u) => (float[N,16,4,4] y, float[N,16,4,4] z) {{
            c = Conv(x, w) y = {BN}
            d = Conv(u, w) z = BatchNormalization(d, s, t, m, v)
        }}""",
        {"w": normal(16, 16, 3, 3), **statistics(16)},
    )
    assert_rewrites(
        FuseConvBatchNorm(), model, expect=["Conv", "Conv"], rewrites=2, rtol=1e-4, atol=1e-4
    )


def test_subgraph_is_folded_when_its_weights_lie_outside() -> None:
    model = parse_model(
        """g (float[N,3,6,6] x, bool k) => (float[N,4,4,4] y)
        <float[1] w = {0}, float[1] s = {0}, float[1] t = {0}, float[1] m = {0}, float[1] v = {0}> {
            y = If (k) <
                then_branch = a () => (float[N,4,4,4] p) {
                    c = Conv(x, w) p = BatchNormalization(c, s, t, m, v)
                },
                else_branch = e () => (float[N,4,4,4] q) { q = Conv(x, w) }
            >
        }""",
        {"w": normal(4, 3, 3, 3), **statistics(4)},
    )
    assert_rewrites(FuseConvBatchNorm(), model, expect=["If"], rewrites=1, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("op", "weight", "group"),
    [("Conv", (6, 4, 3, 3), 1), ("Conv", (6, 2, 3, 3), 2), ("Conv", (4, 1, 3, 3), 4)],
)
def test_unpadded_conv_takes_the_normalization_before_it(
    op: str, weight: tuple[int, ...], group: int
) -> None:
    model = parse_model(
        f"""g (float[N,4,8,8] c) => (float[N,{weight[0]},6,6] y)
        {{ n = {BN} y = Conv <group = {group}, auto_pad = "VALID"> (n, w, b) }}""",
        {"w": normal(*weight), "b": normal(weight[0]), **statistics(4)},
    )
    assert_rewrites(FuseConvBatchNorm(), model, expect=[op], rewrites=1, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("attributes", ["pads = [0, 1, 0, 0]", 'auto_pad = "SAME_UPPER"'])
def test_padded_conv_refuses_the_normalization_before_it(attributes: str) -> None:
    model = parse_model(
        f"g (float[N,4,8,8] c) => (float[N,6,H,W] y) {{ n = {BN} y = Conv <{attributes}> (n, w) }}",
        {"w": normal(6, 4, 3, 3), **statistics(4)},
    )
    assert_refuses(FuseConvBatchNorm(), model, "zeros are not normalized")


@pytest.mark.parametrize("flatten", ["Flatten(n)", "Reshape(n, shape)"])
def test_gemm_takes_the_normalization_before_a_flatten(flatten: str) -> None:
    model = parse_model(
        f"""g (float[N,4,2,3] c) => (float[N,5] y) <int64[2] shape = {{-1, 24}}>
        {{ n = {BN} f = {flatten} y = Gemm <transB = 1> (f, w, b) }}""",
        {"w": normal(5, 24), "b": normal(5), **statistics(4)},
    )
    ir.passes.common.ShapeInferencePass()(model)
    expect = [flatten.split("(")[0], "Gemm"]
    assert_rewrites(FuseConvBatchNorm(), model, expect=expect, rewrites=1, rtol=1e-4, atol=1e-4)


def test_matmul_takes_the_normalization_before_it() -> None:
    model = parse_model(
        f"g (float[N,4] c) => (float[N,5] y) {{ n = {BN} y = MatMul(n, w) }}",
        {"w": normal(4, 5), **statistics(4)},
    )
    ir.passes.common.ShapeInferencePass()(model)
    expect = ["MatMul", "Add"]
    assert_rewrites(FuseConvBatchNorm(), model, expect=expect, rewrites=1, rtol=1e-4, atol=1e-4)


def test_far_mean_is_refused_when_the_normalization_comes_first() -> None:
    weights = {"w": normal(4, 5), **statistics(4)}
    weights["m"] = np.full(4, 1e4, np.float32)
    model = parse_model(
        f"g (float[N,4] c) => (float[N,5] y) {{ n = {BN} y = Gemm(n, w) }}", weights
    )
    assert_refuses(FuseConvBatchNorm(), model, "standard deviations")
