"""`mask-weights`: which numbers become zero, in which layouts, and what is refused."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers.branches import in_branches
from helpers.rewriting import assert_refuses, assert_rewrites, parse_model, random_feeds, run

from onnxopt.core.errors import InvalidInputError
from onnxopt.passes.pruning import MaskWeights

_ALL = {"smallest": 1}


def _weight(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _product(weight: np.ndarray) -> ir.Model:
    inputs, outputs = weight.shape
    text = f"g (float[N, {inputs}] x) => (float[N, {outputs}] y) {{ y = MatMul(x, w) }}"
    return parse_model(text, {"w": weight})


def _masked(model: ir.Model, name: str = "w") -> np.ndarray:
    return model.graph.initializers[name].const_value.numpy()


@pytest.mark.parametrize("sparsity", [0.25, 0.5, 0.9])
def test_the_smallest_numbers_become_zero(sparsity: float) -> None:
    weight = _weight(8, 20)
    model = _product(weight)
    pass_ = MaskWeights(sparsity=sparsity, **_ALL)
    result = pass_(model)
    assert result.rewrites == {"masked-weight": 1}
    limit = np.quantile(np.abs(weight), sparsity)
    np.testing.assert_array_equal(_masked(model), np.where(np.abs(weight) < limit, 0, weight))
    x = _weight(3, 8, seed=1)
    np.testing.assert_allclose(run(model, {"x": x})[0], x @ _masked(model), rtol=1e-5, atol=1e-5)
    assert not pass_(model).modified


def test_nothing_changes_when_half_is_zero_already() -> None:
    weight = _weight(8, 16)
    weight[1::2] = 0
    assert_rewrites(
        MaskWeights(**_ALL), _product(weight), expect=["MatMul"], rewrites=0, rtol=0, atol=0
    )


@pytest.mark.parametrize(
    ("text", "shape", "axis"),
    [
        ("g (float[N, 8] x) => (float[N, 6] y) { y = MatMul(x, w) }", (8, 6), 0),
        ("g (float[N, 8] x) => (float[N, 6] y) { y = Gemm(x, w) }", (8, 6), 0),
        ("g (float[N, 8] x) => (float[N, 6] y) { y = Gemm<transB = 1>(x, w) }", (6, 8), 1),
        ("g (float[N, 8, 5, 5] x) => (float[N, 6, 3, 3] y) { y = Conv(x, w) }", (6, 8, 3, 3), 1),
        (
            "g (float[N, 8, 5] x) => (float[N, 6, 3] y) { y = Conv<group = 2>(x, w) }",
            (6, 4, 3),
            1,
        ),
    ],
)
def test_two_of_four_inputs_become_zero_in_every_layout(
    text: str, shape: tuple[int, ...], axis: int
) -> None:
    model = parse_model(text, {"w": _weight(*shape)})
    assert MaskWeights(pattern="2:4", **_ALL)(model).modified
    along = np.moveaxis(_masked(model), axis, -1)
    assert ((along.reshape(-1, 4) == 0).sum(axis=1) == 2).all()
    run(model, random_feeds(model, {"N": 2}))


@pytest.mark.parametrize("dtype", [ir.DataType.FLOAT16, ir.DataType.BFLOAT16])
def test_half_precision_keeps_its_bits(dtype: ir.DataType) -> None:
    model = _product(_weight(8, 8))
    value = model.graph.initializers["w"]
    before = _masked(model).astype(dtype.numpy())
    value.const_value = ir.Tensor(before, dtype=dtype, name="w")
    value.dtype = dtype
    MaskWeights(**_ALL)(model)
    after = _masked(model)
    assert after.dtype == before.dtype
    kept = after != 0
    assert kept.mean() == 0.5
    np.testing.assert_array_equal(after[kept], before[kept])


def test_weights_of_subgraphs_are_masked_when_one_branch_reads_them() -> None:
    model = in_branches(_product(_weight(8, 8)))
    then = model.graph[-1].attributes["then_branch"].as_graph()[0]
    own = ir.Value(name="own", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([8, 8]))
    own.const_value = ir.tensor(_weight(8, 8, seed=3), name="own")
    model.graph.register_initializer(own)
    then.replace_input_with(1, own)
    assert MaskWeights(**_ALL)(model).rewrites == {"masked-weight": 2}
    feeds = {**random_feeds(_product(_weight(8, 8)), {"N": 2}), "chosen": np.array(True)}
    np.testing.assert_allclose(
        run(model, feeds)[0], feeds["x"] @ _masked(model, "own"), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    ("text", "shape", "options", "reason"),
    [
        ("y = MatMul(x, w)", (6, 8), {"pattern": "2:4"}, "sums over 6 inputs, no multiple of 4"),
        ("y = MatMul(x, w)", (6, 8), {"smallest": 64}, "fewer than 64 numbers"),
        ("a = MatMul(x, w) b = MatMul(x, w) y = Add(a, b)", (6, 8), {}, "reads its weight, too"),
        ("y = Gemm<alpha = 2.0>(x, w)", (6, 8), {}, "no plain product"),
    ],
)
def test_other_forms_are_refused(
    text: str, shape: tuple[int, ...], options: dict[str, object], reason: str
) -> None:
    model = parse_model(
        f"g (float[N, 6] x) => (float[N, 8] y) {{ {text} }}", {"w": _weight(*shape)}
    )
    assert_refuses(MaskWeights(**{**_ALL, **options}), model, reason)


def test_nan_is_refused() -> None:
    weight = _weight(8, 8)
    weight[0, 0] = np.nan
    assert_refuses(MaskWeights(**_ALL), _product(weight), "NaN or infinity")


def test_quantized_models_are_refused() -> None:
    model = parse_model(
        "g (float[N, 4] x) => (uint8[N, 4] y) { y = QuantizeLinear(x, s, z) }",
        {"s": np.float32(0.1), "z": np.uint8(3)},
    )
    assert_refuses(MaskWeights(), model, "then quantize it")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": 0.0}, "over 0 and below 1"),
        ({"sparsity": 1.0}, "over 0 and below 1"),
        ({"sparsity": float("nan")}, "over 0 and below 1"),
        ({"sparsity": 0.3, "pattern": "2:4"}, "half of a weight"),
    ],
)
def test_error_is_one_line_when_options_do_not_fit(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        MaskWeights(**options).call(_product(_weight(8, 8)))
