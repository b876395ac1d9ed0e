"""InsertQdq: where the pairs go, what they absorb, what is refused."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxopt.calibration.collecting import collect
from onnxopt.calibration.data import open_data
from onnxopt.core.errors import InvalidInputError
from onnxopt.core.report import Report
from onnxopt.graph.calibrated import Ranges
from onnxopt.graph.quantization import Encoding
from onnxopt.optimizing import optimize
from onnxopt.passes.parsing import parse_passes
from onnxopt.passes.quantization.qdq import InsertQdq
from onnxopt.runtime.session import open_session

QDQ = {"QuantizeLinear", "DequantizeLinear"}


def weights(**shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        name: rng.standard_normal(shape).astype(np.float32) / 4 for name, shape in shapes.items()
    }


def build(
    body: str,
    opset: int = 17,
    inputs: str = "float[1, 4, 8, 8] x",
    outputs: str = "float[1, M, H, W] y",
    **shapes: tuple[int, ...],
) -> ir.Model:
    typed = [f"float[{', '.join(map(str, shape))}] {name}" for name, shape in shapes.items()]
    model = ir.from_onnx_text(
        f'<ir_version: 8, opset_import: ["" : {opset}, "com.microsoft" : 1]>\n'
        f"g ({', '.join([inputs, *typed])}) => ({outputs}) {{ {body} }}"
    )
    del model.graph.inputs[inputs.count("[") :]
    for value in [v for node in model.graph for v in node.inputs if v is not None]:
        if value.name in shapes and not value.is_initializer():
            value.const_value = ir.Tensor(weights(**shapes)[value.name], name=value.name)
            model.graph.register_initializer(value)
    for index, node in enumerate(model.graph):
        node.name = node.name or f"n{index}_{node.op_type}"
    return model


def samples(model: ir.Model, count: int = 4) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    return [
        {
            v.name or "": rng.standard_normal(
                [d if isinstance(d, int) else 3 for d in v.shape or ()]
            ).astype(np.float32)
            for v in model.graph.inputs
        }
        for _ in range(count)
    ]


def quantized(model: ir.Model, **options: Any) -> tuple[ir.Model, Any]:
    names = [v.name or "" for v in model.graph.inputs]
    names += [o.name or "" for node in model.graph for o in node.outputs]
    table = collect(model, names, open_data(samples(model), model))
    encoding = Encoding(options.get("activation_type", "uint8"))
    result = model.clone()
    found = InsertQdq(ranges=Ranges(table.ranges("min-max", encoding)), **options)(result)
    onnx.checker.check_model(ir.to_proto(result))
    return result, found


def operators(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def error(model: ir.Model, other: ir.Model, level: Any = "disabled") -> float:
    worst = 0.0
    reference, result = open_session(model), open_session(other, optimization=level)
    for feeds in samples(model):
        for name, expected in reference.run(feeds).items():
            found = result.run(feeds)[name]
            assert found.shape == expected.shape
            worst = max(worst, float(np.abs(found - expected).max() / np.abs(expected).max()))
    return worst


RESIDUAL = """a = Conv<pads=[1,1,1,1]>(x, w1, b1)  r = Relu(a)  c = Conv<pads=[1,1,1,1]>(r, w2, b2)
 s = Add(c, r)  t = Relu(s)  p = MaxPool<kernel_shape=[2,2]>(t)  y = Conv(p, w3)"""
SHAPES = {"w1": (4, 4, 3, 3), "b1": (4,), "w2": (4, 4, 3, 3), "b2": (4,), "w3": (6, 4, 1, 1)}


def test_a_residual_block_is_one_closed_region() -> None:
    model = build(RESIDUAL, **SHAPES)
    result, found = quantized(model)
    assert found.rewrites == Counter(Conv=3, Add=1, MaxPool=1)
    counts = operators(result)
    assert counts["Relu"] == 0
    assert counts["QuantizeLinear"] == 6  # x and the outputs of five nodes
    assert error(model, result) < 0.05
    assert [v.name for v in result.graph.outputs] == ["y"]


def test_every_float_value_inside_a_region_is_between_a_node_and_its_q() -> None:
    result, _ = quantized(build(RESIDUAL, **SHAPES))
    for node in result.graph:
        if node.op_type in QDQ:
            continue
        (user,) = node.outputs[0].consumers()
        assert user.op_type == "QuantizeLinear"
        for value in node.inputs:
            assert value is not None
            producer = value.producer()
            assert producer is not None
            assert producer.op_type == "DequantizeLinear"


def test_onnx_runtime_fuses_all_of_it() -> None:
    import onnxruntime as ort

    result, _ = quantized(build(RESIDUAL, **SHAPES))
    session = open_session(result)
    assert isinstance(session.native, ort.InferenceSession)
    assert error(build(RESIDUAL, **SHAPES), result, "all") < 0.2


def test_copies_keep_one_scale() -> None:
    result, _ = quantized(build(RESIDUAL, **SHAPES))
    pool = next(node for node in result.graph if node.op_type == "MaxPool")
    before, after = pool.inputs[0], pool.outputs[0].consumers()[0]
    assert before is not None
    producer = before.producer()
    assert producer is not None
    assert list(producer.inputs[1:]) == list(after.inputs[1:])


def test_weights_are_integers_and_float_originals_are_gone() -> None:
    result, _ = quantized(build(RESIDUAL, **SHAPES))
    by_type = Counter(v.dtype for v in result.graph.initializers.values() if v.uses())
    assert by_type[ir.DataType.INT8] >= 3
    assert by_type[ir.DataType.INT32] == 2
    assert not any(
        v.dtype == ir.DataType.FLOAT and v.const_value is not None and v.const_value.size > 8
        for v in result.graph.initializers.values()
    )


def test_tied_weights_are_stored_once() -> None:
    model = build("a = Conv(x, w)  y = Conv(a, w)", w=(4, 4, 1, 1))
    result, _ = quantized(model)
    assert (
        sum(
            v.dtype == ir.DataType.INT8 and v.const_value is not None and v.const_value.size > 4
            for v in result.graph.initializers.values()
        )
        == 1
    )


def test_a_second_run_changes_nothing() -> None:
    result, _ = quantized(build(RESIDUAL, **SHAPES))
    ranges = Ranges({v.name: (-1.0, 1.0) for n in result.graph for v in n.outputs if v.name})
    assert not InsertQdq(ranges=ranges)(result).modified


def test_optimizing_a_quantized_model_keeps_it_quantized() -> None:
    result, _ = quantized(build(RESIDUAL, **SHAPES))
    again = optimize(result)
    assert isinstance(again.report, Report)
    assert operators(again.model)["Conv"] == 3
    assert operators(again.model)["QuantizeLinear"] == operators(result)["QuantizeLinear"]
    assert not any(
        v.dtype == ir.DataType.FLOAT and v.const_value is not None and v.const_value.size > 8
        for v in again.model.graph.initializers.values()
    )


@pytest.mark.parametrize(
    "options",
    [
        {"symmetric": True, "activation_type": "int8"},
        {"activation_type": "int8"},
        {"per_channel": False},
        {"reduce_range": True},
        {"weight_type": "uint8"},
        {"activation_type": "uint16"},
        {"activation_type": "int16", "weight_type": "int16"},
        {"joins": False},
        {"thin": True},
    ],
)
@pytest.mark.parametrize("opset", [11, 13, 21])
def test_all_types_and_granularities_run(options: dict[str, Any], opset: int) -> None:
    body = RESIDUAL
    model = build(body, opset, **SHAPES)
    result, found = quantized(model, **options)
    assert found.modified
    assert error(model, result, "all") < 0.3
    if options.get("symmetric"):
        zeros = [
            n.inputs[2].const_value.numpy()
            for n in result.graph
            if n.op_type == "QuantizeLinear"
            and n.inputs[2] is not None
            and n.inputs[2].const_value is not None
        ]
        assert not np.any(zeros)
        assert operators(result)["Relu"] == 2


def test_before_opset_13_scales_per_channel_are_those_of_com_microsoft() -> None:
    result, _ = quantized(build(RESIDUAL, 11, **SHAPES))
    pairs = [node for node in result.graph if node.op_type.endswith("uantizeLinear")]
    assert {node.domain for node in pairs} == {"com.microsoft"}
    assert any("axis" in node.attributes for node in pairs)
    standard, _ = quantized(build(RESIDUAL, 11, **SHAPES), per_channel=False)
    assert {n.domain for n in standard.graph} == {""}


@pytest.mark.parametrize(
    ("activation", "opset"),
    [
        ("h = HardSwish(c)", 17),
        ("s = HardSigmoid<alpha = 0.16666667, beta = 0.5>(c) h = Mul(c, s)", 13),
        ("h = HardSigmoid<alpha = 0.3, beta = 0.4>(c)", 17),
    ],
)
def test_hard_activations_run_on_integers_between_two_convs(activation: str, opset: int) -> None:
    shapes = {"w1": (4, 4, 1, 1), "w2": (4, 4, 1, 1)}
    model = build(f"c = Conv(x, w1) {activation} y = Conv(h, w2)", opset, **shapes)
    result, found = quantized(model)
    assert found.rewrites.total() >= 3
    assert not {"HardSwish", "HardSigmoid"} & set(operators(result))
    assert error(model, result) < 0.04
    symmetric, _ = quantized(model, symmetric=True, activation_type="int8")
    assert {"HardSwish", "HardSigmoid"} & set(operators(symmetric))


def test_products_with_little_work_stay_float_if_asked_for() -> None:
    model = build(RESIDUAL, **SHAPES)
    _, found = quantized(model, least_work=10_000)
    assert not found.modified
    assert all("too few to pay" in refusal.reason for refusal in found.refusals)


def test_sixteen_bits_are_nearly_exact() -> None:
    model = build(RESIDUAL, 21, **SHAPES)
    wide, _ = quantized(model, activation_type="uint16", weight_type="int16")
    assert error(model, wide) < 2e-3


def test_depthwise_is_quantized_only_between_others() -> None:
    shapes = {"w1": (4, 4, 1, 1), "wd": (4, 1, 3, 3), "w2": (4, 4, 1, 1)}
    inside = "a = Conv(x, w1)  d = Conv<group=4>(a, wd)  y = Conv(d, w2)"
    assert quantized(build(inside, **shapes))[1].rewrites == Counter(Conv=3)
    alone, found = quantized(build("d = Conv<group=4>(x, wd)  y = Sigmoid(d)", wd=(4, 1, 3, 3)))
    assert not found.modified
    assert "depthwise" in found.refusals[0].reason
    assert operators(alone) == Counter(Conv=1, Sigmoid=1)


def test_silu_between_convolutions_is_integer() -> None:
    model = build(
        "a = Conv(x, w1)  s = Sigmoid(a)  m = Mul(a, s)  y = Conv(m, w2)",
        w1=(4, 4, 1, 1),
        w2=(4, 4, 1, 1),
    )
    result, found = quantized(model)
    assert found.rewrites == Counter(Conv=2, Sigmoid=1, Mul=1)
    assert error(model, result) < 0.05


def test_concat_shares_a_scale_where_ranges_are_alike() -> None:
    body = "a = Conv(x, w1)  b = Conv(x, w2)  c = Concat<axis=1>(a, b)  y = Conv(c, w3)"
    model = build(body, w1=(4, 4, 1, 1), w2=(4, 4, 1, 1), w3=(4, 8, 1, 1))
    small = np.asarray(weights(w=(4, 4, 1, 1))["w"]) / 50
    for factor, count in ((None, 1), (small, 2)):
        if factor is not None:
            model.graph.initializers["w2"].const_value = ir.Tensor(factor, name="w2")
        result, _ = quantized(model)
        concat = next(node for node in result.graph if node.op_type == "Concat")
        scales = {v.producer().inputs[1] for v in concat.inputs if v is not None and v.producer()}
        assert len(scales) == count
        assert error(model, result) < 0.1


def test_products_without_integer_users_stay_float() -> None:
    model = build(
        "m = MatMul(x, w)  y = Softmax(m)",
        inputs="float[2, 8] x",
        outputs="float[2, 5] y",
        w=(8, 5),
    )
    result, _ = quantized(model)
    assert operators(result)["QuantizeLinear"] == 1
    assert error(model, result) < 0.05


@pytest.mark.parametrize("trans", [0, 1])
def test_gemm_with_a_bias(trans: int) -> None:
    model = build(
        f"y = Gemm<transB={trans}>(x, w, b)",
        inputs="float[2, 8] x",
        outputs="float[2, 5] y",
        w=(5, 8) if trans else (8, 5),
        b=(5,),
    )
    result, found = quantized(model)
    assert found.rewrites == Counter(Gemm=1)
    assert error(model, result) < 0.05


def test_a_bias_that_would_overflow_gets_a_larger_scale() -> None:
    model = build("y = Conv(x, w, b)", w=(4, 4, 1, 1), b=(4,))
    tiny = np.full((4, 4, 1, 1), 1e-9, np.float32)
    model.graph.initializers["w"].const_value = ir.Tensor(tiny, name="w")
    result, _ = quantized(model)
    assert error(model, result) < 0.02


def test_dynamic_shapes_and_outputs_in_the_middle_keep_their_names() -> None:
    model = build(
        "a = Conv(x, w1)  r = Relu(a)  y = Conv(r, w2)",
        inputs="float[N, 4, H, W] x",
        outputs="float[N, 4, H, W] r, float[N, 4, H, W] y",
        w1=(4, 4, 1, 1),
        w2=(4, 4, 1, 1),
    )
    result, _ = quantized(model)
    assert [v.name for v in result.graph.outputs] == ["r", "y"]
    assert [str(d) for d in result.graph.outputs[0].shape or ()] == ["N", "4", "H", "W"]
    assert error(model, result) < 0.05


@pytest.mark.parametrize(
    ("body", "shapes", "reason"),
    [
        ("y = ConvTranspose(x, w)", {"w": (4, 4, 1, 1)}, "no integer kernel"),
        ("z = Mul(w, x)  y = Conv(x, z)", {"w": (4, 4, 8, 8)}, "computed"),
        ("y = MatMul(x, x)", {"w": (1,)}, "both operands"),
    ],
)
def test_refusals_have_reasons(body: str, shapes: dict[str, tuple[int, ...]], reason: str) -> None:
    model = build(body, **shapes)
    ranges = Ranges(
        {v.name: (-1.0, 1.0) for n in model.graph for v in n.outputs if v.name} | {"x": (-1.0, 1.0)}
    )
    found = InsertQdq(ranges=ranges)(model)
    assert not found.modified
    assert reason in found.refusals[0].reason


def test_unknown_ranges_and_excluded_nodes_are_left_alone() -> None:
    model = build(RESIDUAL, **SHAPES)
    assert "range" in InsertQdq()(model.clone()).refusals[0].reason
    result, found = quantized(model, exclude=("n0_*",))
    assert found.rewrites["Conv"] == 2
    assert found.refusals[0].reason == "excluded"
    assert error(model, result) < 0.05


def test_old_opsets_are_refused() -> None:
    found = InsertQdq()(build("y = Conv(x, w)", opset=9, w=(4, 4, 1, 1)))
    assert "raise it" in found.refusals[0].reason


def test_ranges_do_not_come_from_text() -> None:
    with pytest.raises(InvalidInputError, match="calibration"):
        parse_passes("insert-qdq{ranges=x}", [InsertQdq])
