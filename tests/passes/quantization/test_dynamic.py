"""QuantizeDynamic: forms, sharing, refusals."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest

from onnxopt.optimizing import optimize
from onnxopt.passes.quantization.dynamic import QuantizeDynamic
from onnxopt.runtime.session import open_session

IMPORTS = '<ir_version: 8, opset_import: ["" : 17]>'


def build(text: str, opset: int = 17, **shapes: tuple[int, ...]) -> ir.Model:
    """A model from text in which `W` stands for the weights' declarations."""
    rng = np.random.default_rng(0)
    typed = ", ".join(f"float[{', '.join(map(str, s))}] {name}" for name, s in shapes.items())
    model = ir.from_onnx_text(
        f"{IMPORTS.replace('17', str(opset))} {text.replace('WEIGHTS', typed)}"
    )
    for value in list(model.graph.inputs):
        if value.name in shapes:
            array = rng.standard_normal(shapes[value.name]).astype(np.float32) / 8
            model.graph.inputs.remove(value)
            value.const_value = ir.Tensor(array, name=value.name)
            model.graph.register_initializer(value)
    return model


def error(model: ir.Model, other: ir.Model) -> float:
    rng = np.random.default_rng(1)
    reference, result = open_session(model), open_session(other)
    feeds = {}
    for value in model.graph.inputs:
        shape = [d if isinstance(d, int) else 3 for d in value.shape or ()]
        kinds = {ir.DataType.FLOAT: np.float32, ir.DataType.BOOL: np.bool_}
        array = rng.standard_normal(shape) if value.dtype in kinds else rng.integers(0, 9, shape)
        feeds[value.name or ""] = array.astype(
            kinds.get(value.dtype or ir.DataType.INT64, np.int64)
        )
    worst = 0.0
    found = result.run(feeds)
    for name, expected in reference.run(feeds).items():
        worst = max(worst, float(np.abs(found[name] - expected).max() / np.abs(expected).max()))
    return worst


def quantize(model: ir.Model, **options: object) -> tuple[ir.Model, Counter[str], list[str]]:
    result = model.clone()
    found = QuantizeDynamic(reduce_range=True, **options)(result)  # type: ignore[arg-type]
    assert not QuantizeDynamic(reduce_range=True)(result).modified or options.get("exclude")
    return result, found.rewrites, [refusal.reason for refusal in found.refusals]


def operators(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def float_weights(model: ir.Model) -> list[str]:
    return [
        name
        for name, v in model.graph.initializers.items()
        if v.dtype == ir.DataType.FLOAT and v.const_value is not None and v.const_value.size > 200
    ]


def test_matmul_and_bias_become_one_node() -> None:
    model = build(
        "g (float[N, 4, 64] x, WEIGHTS) => (float[N, 4, 96] y) { m = MatMul(x, w) y = Add(m, b) }",
        w=(64, 96),
        b=(96,),
    )
    result, rewrites, _ = quantize(model)
    assert operators(result) == Counter(DynamicQuantizeMatMul=1)
    assert rewrites == Counter(MatMul=1)
    assert float_weights(result) == []
    assert [v.name for v in result.graph.outputs] == ["y"]
    assert error(model, result) < 0.03


@pytest.mark.parametrize("trans", [0, 1])
@pytest.mark.parametrize("bias", [(96,), (1, 96), (1,)])
def test_gemm(trans: int, bias: tuple[int, ...]) -> None:
    model = build(
        f"g (float[N, 64] x, WEIGHTS) => (float[N, 96] y) {{ y = Gemm<transB={trans}>(x, w, b) }}",
        w=(96, 64) if trans else (64, 96),
        b=bias,
    )
    result, rewrites, _ = quantize(model)
    assert rewrites == Counter(Gemm=1)
    assert error(model, result) < 0.03


def test_what_several_products_read_is_quantized_once() -> None:
    model = build(
        "g (float[N, 64] x, WEIGHTS) => (float[N, 96] y, float[N, 96] z)"
        " { y = MatMul(x, w) m = MatMul(x, v) z = Add(b, m) }",
        w=(64, 96),
        v=(64, 96),
        b=(96,),
    )
    result, _, _ = quantize(model)
    assert operators(result) == Counter(DynamicQuantizeLinear=1, MatMulIntegerToFloat=2)
    assert error(model, result) < 0.03


def test_tied_weights_are_stored_once() -> None:
    model = build(
        "g (float[N, 64] x, WEIGHTS) => (float[N, 64] y)"
        " { m = MatMul(x, w) r = Relu(m) y = MatMul(r, w) }",
        w=(64, 64),
    )
    result, _, _ = quantize(model)
    integers = [
        v
        for v in result.graph.initializers.values()
        if v.const_value is not None and v.dtype == ir.DataType.INT8 and v.const_value.size > 64
    ]
    assert len(integers) == 1
    assert error(model, result) < 0.05


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_lstm(direction: str) -> None:
    d = 2 if direction == "bidirectional" else 1
    model = build(
        f"""g (float[5, 2, 32] x, WEIGHTS) => (float[5, {d}, 2, 48] y, float[{d}, 2, 48] h)
        {{ y, h = LSTM<hidden_size=48, layout=0, direction="{direction}">(x, w, r, b) }}""",
        w=(d, 192, 32),
        r=(d, 192, 48),
        b=(d, 384),
    )
    result, rewrites, _ = quantize(model)
    assert rewrites == Counter(LSTM=1)
    assert operators(result) == Counter(DynamicQuantizeLSTM=1)
    assert error(model, result) < 0.05


def test_weights_of_lstms_cannot_saturate() -> None:
    model = build(
        "g (float[5, 2, 32] x, WEIGHTS) => (float[5, 1, 2, 48] y)"
        " { y = LSTM<hidden_size=48>(x, w, r) }",
        w=(1, 192, 32),
        r=(1, 192, 48),
    )
    result, _, _ = quantize(model)
    for value in result.graph.initializers.values():
        integers = value.const_value
        if integers is not None and integers.dtype == ir.DataType.INT8 and integers.size > 192:
            matrix = integers.numpy()[0].astype(int)
            assert np.abs(matrix[:-1] + matrix[1:]).max() <= 128
            assert np.abs(matrix).max() > 64  # more than half of the range is used


def test_products_in_branches_are_quantized() -> None:
    model = build(
        """g (bool c, float[N, 64] x, WEIGHTS) => (float[N, 96] y)
        { y = If(c) <then_branch = t () => (float[N, 96] a) { a = MatMul(x, w) },
                     else_branch = e () => (float[N, 96] b) { b0 = MatMul(x, w) b = Neg(b0) }> }""",
        w=(64, 96),
    )
    model.graph.inputs[0].shape = ir.Shape(())
    result, rewrites, _ = quantize(model)
    assert rewrites == Counter(MatMul=2)
    assert float_weights(result) == []
    assert error(model, result) < 0.03


def test_tables_of_gather_only_if_asked_for() -> None:
    model = build("g (int64[N] i, WEIGHTS) => (float[N, 32] y) { y = Gather(t, i) }", t=(100, 32))
    assert quantize(model)[1] == Counter()
    result, rewrites, _ = quantize(model, embeddings=True)
    assert rewrites == Counter(Gather=1)
    assert float_weights(result) == []
    assert error(model, result) < 0.01


@pytest.mark.parametrize(
    ("body", "shapes", "reason"),
    [
        ("y = MatMul(x, w)", {"w": (64, 4)}, "too small"),
        ("v = Relu(w) y = MatMul(x, v)", {"w": (64, 96)}, "computed"),
        ("y = Gemm<alpha=2.0>(x, w)", {"w": (64, 96)}, "alpha"),
        ("y = Gemm(x, w, b)", {"w": (64, 96), "b": (3, 96)}, "row to row"),
        ("y = MatMul(x, w)", {"w": (3, 64, 96)}, "3 dimensions"),
    ],
)
def test_refusals_have_reasons(body: str, shapes: dict[str, tuple[int, ...]], reason: str) -> None:
    model = build(f"g (float[3, 64] x, WEIGHTS) => (float[M, K] y) {{ {body} }}", **shapes)
    _, rewrites, reasons = quantize(model)
    assert not rewrites
    assert reason in reasons[0]


def test_gru_and_excluded_nodes_stay() -> None:
    model = build(
        "g (float[5, 2, 32] x, WEIGHTS) => (float[5, 1, 2, 48] y)"
        " { y = GRU<hidden_size=48>(x, w, r) }",
        w=(1, 144, 32),
        r=(1, 144, 48),
    )
    assert "GRU" in quantize(model)[2][0]
    model = build(
        "g (float[N, 64] x, WEIGHTS) => (float[N, 96] y) { y = MatMul(x, w) }", w=(64, 96)
    )
    model.graph[0].name = "head"
    assert quantize(model, exclude=("he*",))[1:] == (Counter(), ["excluded"])


@pytest.mark.parametrize("opset", [7, 11, 13, 21])
@pytest.mark.parametrize("per_channel", [True, False])
def test_all_opsets(opset: int, per_channel: bool) -> None:
    model = build(
        "g (float[N, 64] x, WEIGHTS) => (float[N, 96] y) { y = MatMul(x, w) }", opset, w=(64, 96)
    )
    result, rewrites, _ = quantize(model, per_channel=per_channel)
    assert rewrites == Counter(MatMul=1)
    assert error(model, result) < 0.04


def test_optimizing_a_quantized_model_keeps_it() -> None:
    model = build(
        "g (float[N, 64] x, WEIGHTS) => (float[N, 96] y) { m = MatMul(x, w) y = Add(m, b) }",
        w=(64, 96),
        b=(96,),
    )
    result, _, _ = quantize(model)
    again = optimize(result)
    assert operators(again.model) == Counter(DynamicQuantizeMatMul=1)
