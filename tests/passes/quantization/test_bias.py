"""CorrectBias: means are kept, and what has no place for a correction is left alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from onnxopt.calibration.collecting import collect
from onnxopt.calibration.data import open_data
from onnxopt.core.errors import InvalidInputError
from onnxopt.graph.calibrated import Means, Ranges, RoundedWeight, Roundings
from onnxopt.graph.quantization import Encoding, QuantizationParameters, quantize
from onnxopt.graph.values import constant
from onnxopt.passes.parsing import parse_passes
from onnxopt.passes.quantization.bias import CorrectBias
from onnxopt.passes.quantization.dynamic import QuantizeDynamic
from onnxopt.passes.quantization.qdq import InsertQdq
from onnxopt.passes.quantization.tensors import weight_parameters
from onnxopt.runtime.session import open_session

CASES = {
    "MatMul": ("float[N, 64] x", "m = MatMul(x, w) y = Add(m, b)", (64, 96)),
    "Gemm": ("float[N, 64] x", "y = Gemm<transB=1>(x, w, b)", (96, 64)),
    "Conv": ("float[N, 8, 6, 6] x", "y = Conv<group=2>(x, w, b)", (96, 4, 3, 3)),
    "Conv without bias": ("float[N, 8, 6, 6] x", "y = Conv(x, w)", (96, 8, 3, 3)),
}


def build(case: str) -> ir.Model:
    rng = np.random.default_rng(0)
    inputs, body, shape = CASES[case]
    model = ir.from_onnx_text(
        f'<ir_version: 8, opset_import: ["" : 17]> g ({inputs}, float[A] w, float[96] b)'
        f" => (float y) {{ {body} }}"
    )
    for value, size in zip(list(model.graph.inputs[1:]), (shape, (96,)), strict=True):
        model.graph.inputs.remove(value)
        array = rng.standard_normal(size).astype(np.float32) / 8
        value.const_value, value.shape = ir.Tensor(array, name=value.name), ir.Shape(size)
        value.dtype = ir.DataType.FLOAT
        model.graph.register_initializer(value)
    model.graph.outputs[0].shape = None
    return model


def data(model: ir.Model) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    shape = [d if isinstance(d, int) else 16 for d in model.graph.inputs[0].shape or ()]
    offset = rng.standard_normal(shape[1]).reshape(-1, *[1] * (len(shape) - 2)) * 4
    return [{"x": (rng.standard_normal(shape) + offset).astype(np.float32)} for _ in range(8)]


def corrected(model: ir.Model) -> tuple[ir.Model, int]:
    table = collect(model, ["x"], open_data(data(model), model))
    result = model.clone()
    return result, CorrectBias(means=Means(table.means()), reduce_range=True)(
        result
    ).rewrites.total()


@pytest.mark.parametrize("case", CASES)
def test_the_bias_moves_by_the_mean_of_what_rounding_loses(case: str) -> None:
    model = build(case)
    result, count = corrected(model)
    assert count == 1
    first, second = open_session(model), open_session(result)
    lost = [second.run(feeds)["y"] - first.run(feeds)["y"] for feeds in data(model)]
    shift = np.concatenate(lost)
    axes = (0, *range(2, shift.ndim))
    assert np.abs(shift.std(axis=axes)).max() < 1e-4  # the same for all samples
    assert np.abs(shift.mean(axis=axes)).max() > 1e-4


def test_the_mean_error_of_the_quantized_product_shrinks() -> None:
    model = build("MatMul")
    result, _ = corrected(model)
    errors = []
    for source in (model, result):
        quantized = source.clone()
        assert QuantizeDynamic(reduce_range=True)(quantized).modified
        found = [
            open_session(quantized).run(f)["y"] - open_session(model).run(f)["y"]
            for f in data(model)
        ]
        errors.append(float(np.abs(np.concatenate(found).mean(axis=0)).mean()))
    assert errors[1] < errors[0] / 2


def test_a_second_run_changes_nothing() -> None:
    model = build("Conv")
    table = collect(model, ["x"], open_data(data(model), model))
    pass_ = CorrectBias(means=Means(table.means()))
    assert pass_(model).modified
    assert not pass_(model).modified


def test_without_means_or_a_place_it_is_refused() -> None:
    assert "not known" in CorrectBias()(build("Conv")).refusals[0].reason
    model = build("MatMul")
    add = model.graph[1]
    add.replace_input_with(1, add.inputs[0])
    means = Means({"x": np.ones(64, np.float32)})
    assert "no bias" in CorrectBias(means=means)(model).refusals[0].reason
    assert not CorrectBias(means=means, exclude=("*",))(build("MatMul")).modified
    wrong = Means({"x": np.ones(3, np.float32)})
    assert "do not fit" in CorrectBias(means=wrong)(build("MatMul")).refusals[0].reason


def test_means_do_not_come_from_text() -> None:
    with pytest.raises(InvalidInputError, match="calibration"):
        parse_passes("correct-bias{means=x}", [CorrectBias])


def test_roundings_that_do_not_fit_the_weight_are_not_counted() -> None:
    model = build("MatMul")
    table = collect(model, ["x"], open_data(data(model), model))
    plain, misfit = model.clone(), model.clone()
    options: dict[str, Any] = {"means": Means(table.means())}
    CorrectBias(**options)(plain)
    zeros = np.zeros((64, 96), np.uint8)
    params = QuantizationParameters(np.ones(96, np.float32), np.zeros(96, np.uint8), 1)
    wrong_type = Roundings({"w": RoundedWeight(zeros, params)})
    CorrectBias(**options, roundings=wrong_type)(misfit)

    def bias(of: ir.Model) -> np.ndarray:
        value = next(node for node in of.graph if node.op_type == "Add").inputs[1]
        assert value is not None
        assert value.const_value is not None
        return value.const_value.numpy()

    np.testing.assert_array_equal(bias(plain), bias(misfit))


@pytest.mark.parametrize("case", ["Gemm", "Conv"])
@pytest.mark.parametrize("rounded", [False, True])
def test_scales_that_grow_for_the_bias_are_those_corrected_for(case: str, rounded: bool) -> None:
    model = build(case)
    bias, weight = (model.graph.initializers[name].const_value for name in "bw")
    assert bias is not None
    assert weight is not None
    array = bias.numpy().copy()
    array[3] = 1e4
    model.graph.initializers["b"].const_value = ir.Tensor(array, name="b")
    size, group = (64, 1) if case == "Gemm" else (8, 2)
    means = np.linspace(1, 2, size, dtype=np.float32)
    options: dict[str, Any] = {"means": Means({"x": means})}
    encoding = Encoding("int8", True)
    if rounded:
        params = weight_parameters(weight.numpy(), encoding, 0)
        nearest = quantize(weight.numpy(), params)
        options["roundings"] = Roundings({"w": RoundedWeight(nearest, params)})
    # Of 1e-3 in 255 steps the products' scale is so small that 1e4 of it does not fit int32.
    ranges = Ranges({"x": (0.0, 1e-3), "y": (-1e4, 1e4)})
    corrected, unaware, inserted = model.clone(), model.clone(), model.clone()
    assert CorrectBias(**options, ranges=ranges)(corrected).modified
    assert CorrectBias(**options)(unaware).modified
    result = InsertQdq(ranges=ranges, thin=True)(inserted)
    assert result.modified, result.refusals
    product = next(node for node in inserted.graph if node.op_type == case)
    assert product.inputs[1] is not None
    pair = product.inputs[1].producer()
    assert pair is not None
    integers, scales = (constant(value) for value in pair.inputs[:2])
    assert integers is not None
    assert scales is not None
    lost = weight.numpy()[3] - integers[3] * scales[3]
    mean = means[: size // group]  # of the first group, as channel 3 is in it
    shift = float(lost.reshape(len(mean), -1).sum(axis=1) @ mean)
    found, other = (constant(one.graph.node(0).inputs[2]) for one in (corrected, unaware))
    assert found is not None
    assert other is not None
    assert found[3] - 1e4 == pytest.approx(shift, abs=1e-2)
    assert abs(other[3] - 1e4 - shift) > 0.1
