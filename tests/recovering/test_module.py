"""Every operator that trains: PyTorch against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers.prunable import attention, residual_cnn, shared_heads
from helpers.rewriting import parse_model, random_feeds, run

from onnxopt.core.errors import InvalidInputError

torch = pytest.importorskip("torch")

from onnxopt.recovering.module import GraphModule  # noqa: E402

_X4 = "float[2, 4, 6, 6] x"
_X3 = "float[2, 3, 4] x"
_CASES = {
    "y = Conv<pads=[0,1,1,0], strides=[2,1]>(x, w)": (_X4, {"w": (5, 4, 3, 3)}),
    'y = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w)': (_X4, {"w": (5, 4, 3, 3)}),
    "y = Conv<group=2, dilations=[2,2]>(x, w, b)": (_X4, {"w": (6, 2, 2, 2), "b": (6,)}),
    "y = ConvTranspose<strides=[2,2], pads=[1,1,1,1]>(x, w)": (_X4, {"w": (4, 3, 3, 3)}),
    "y = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[0,0,1,1]>(x)": (_X4, {}),
    "y = MaxPool<kernel_shape=[2,2], strides=[2,2], ceil_mode=1>(x)": (_X4, {}),
    "y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(x)": (_X4, {}),
    "y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(x)": (_X4, {}),
    "y = GlobalAveragePool(x)": (_X4, {}),
    "y = GlobalMaxPool(x)": (_X4, {}),
    "y = InstanceNormalization(x, s, b)": (_X4, {"s": (4,), "b": (4,)}),
    "y = LayerNormalization<axis=-2>(x, s, b)": (_X3, {"s": (3, 4), "b": (3, 4)}),
    "y = Softmax<axis=1>(x)": (_X3, {}),
    "y = LogSoftmax<axis=-1>(x)": (_X3, {}),
    "y = Gemm<transA=1, transB=1, alpha=0.5, beta=2.0>(x, w, b)": (
        "float[4, 3] x",
        {"w": (5, 4), "b": (5,)},
    ),
    "y = PRelu(x, w)": (_X3, {"w": (4,)}),
    "y = LeakyRelu<alpha=0.2>(x)": (_X3, {}),
    "y = Elu(x)": (_X3, {}),
    "y = HardSigmoid(x)": (_X3, {}),
    "y = HardSwish(x)": (_X3, {}),
    "y = Clip(x, low, high)": (_X3, {"low": -0.5, "high": 1.0}),
    "y = Flatten<axis=2>(x)": (_X3, {}),
    "y = Transpose(x)": (_X3, {}),
    "y = Slice(x, a, b, c, d)": (_X3, {"a": [-1, 0], "b": [-9, 3], "c": [1, 2], "d": [-1, 2]}),
    "a, b = Split<axis=2>(x, s) y = Concat<axis=1>(a, a)": (_X3, {"s": [2, 2]}),
    "y = Gather<axis=1>(x, i)": (_X3, {"i": [[2, 0], [-1, 1]]}),
    "y = Expand(x, s)": (_X3, {"s": [3, 1, 1, 4]}),
    "y = Pad(x, p, v)": (_X3, {"p": [0, 1, 0, 0, 0, 2], "v": 0.5}),
    'y = Pad<mode="reflect">(x, p)': (_X3, {"p": [0, 0, 1, 0, 0, 2]}),
    'y = Pad<mode="edge">(x, p)': (_X4, {"p": [0, 0, 1, 2, 0, 0, 0, 1]}),
    "y = ReduceMean<keepdims=0>(x, a)": (_X3, {"a": [1, -1]}),
    "y = ReduceL2(x, a)": (_X3, {"a": [1]}),
    "y = ReduceMax(x)": (_X3, {}),
    'y = Resize<mode="nearest">(x, , s)': (_X4, {"s": np.array([1, 1, 2, 2], np.float32)}),
    'y = Resize<mode="linear">(x, , , s)': (_X4, {"s": [2, 4, 9, 4]}),
    "u = Unsqueeze(x, a) y = Squeeze(u, b)": (_X3, {"a": [0, -1], "b": [-1]}),
    "z = Shape(x) c = ConstantOfShape(z) y = Add(c, x)": (_X3, {}),
    "l = Greater(x, c) y = Where(l, x, c)": (_X3, {"c": 0.2}),
    "y = Trilu<upper=0>(x)": (_X3, {}),
    "y = CumSum(x, a)": (_X3, {"a": 1}),
    'y = Einsum<equation="bij,jk->bik">(x, w)': (_X3, {"w": (4, 5)}),
    "c = Constant<value_float=0.5>() y = Mul(x, c)": (_X3, {}),
    "c = Constant<value_ints=[2,12]>() y = Reshape(x, c)": (_X3, {}),
    "y = Tile(x, t)": (_X3, {"t": [1, 2, 1]}),
    "q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z)": (
        _X3,
        {"s": 0.05, "z": np.uint8(120)},
    ),
    "a = Erf(x) b = Tanh(a) c = Exp(b) d = Sqrt(c) e = Sigmoid(d) y = Reciprocal(e)": (_X3, {}),
    "a = Sum(x, x, w) b = Max(a, w) y = Min(b, x)": (_X3, {"w": (4,)}),
}


def _array(rng: np.random.Generator, given: object) -> np.ndarray:
    if isinstance(given, tuple):
        return rng.standard_normal(given).astype(np.float32)
    if isinstance(given, (list, int)):
        return np.array(given, np.int64)
    return np.asarray(given, np.float32) if isinstance(given, float) else np.asarray(given)


@pytest.mark.parametrize("text", _CASES)
def test_operator_gives_what_onnx_runtime_gives(text: str) -> None:
    source, weights = _CASES[text]
    rng = np.random.default_rng(0)
    arrays = {name: _array(rng, given) for name, given in weights.items()}
    model = parse_model(f"g ({source}) => (float[*] y) {{ {text} }}".replace("[*]", ""), arrays)
    model.graph.outputs[0].shape = None
    feeds = random_feeds(model, {})
    (expected,) = run(model, feeds)
    with torch.no_grad():
        found = GraphModule(model)(feeds)["y"].numpy()
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("graph", [residual_cnn, attention, shared_heads])
def test_whole_graphs_agree_and_stay_the_same_when_nothing_is_trained(graph) -> None:
    model = graph()
    feeds = random_feeds(model, {"N": 2})
    (expected,) = run(model, feeds)
    module = GraphModule(model)
    with torch.no_grad():
        found = module(feeds)["y"].numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    module.write_back(model)
    np.testing.assert_array_equal(run(model, feeds)[0], expected)


def test_integer_weights_without_a_zero_point_are_rounded_as_they_are_written() -> None:
    model = parse_model(
        "g (float[N, 4] x) => (float[N, 2] y) { w = DequantizeLinear(q, s) y = MatMul(x, w) }",
        {"q": np.arange(8, dtype=np.int8).reshape(4, 2), "s": np.float32(0.5)},
    )
    module, feeds = GraphModule(model), random_feeds(model, {"N": 3})
    with torch.no_grad():
        for value in module.parameters():
            value += 0.4
            value[0, 0] = 300
        found = module(feeds)["y"].numpy()
    module.write_back(model)
    assert model.graph.initializers["q"].const_value.numpy()[0, 0] == 127
    np.testing.assert_allclose(run(model, feeds)[0], found, rtol=1e-4, atol=1e-5)


def test_second_outputs_that_are_read_are_refused() -> None:
    model = parse_model(
        "g (float[N, 4] x) => (float[N, 4] y) { a, m = LayerNormalization(x, s) y = Add(a, m) }",
        {"s": np.ones(4, np.float32)},
    )
    with pytest.raises(InvalidInputError, match="output 'm' has no PyTorch counterpart"):
        GraphModule(model)(random_feeds(model, {"N": 2}))


def test_types_that_pytorch_lacks_are_refused() -> None:
    model = parse_model(
        "g (float[N, 4] x) => (float[N, 4] y) { b = Cast<to=1>(w) y = Add(x, b) }",
        {"w": np.ones(4, ir.DataType.BFLOAT16.numpy())},
    )
    with pytest.raises(InvalidInputError, match="'w' is of type bfloat16"):
        GraphModule(model)


def test_operators_without_a_counterpart_are_all_named() -> None:
    model = parse_model(
        "g (float[N, 4] x) => (float[N, 4] y) { a = Hardmax(x) b = Celu(a) y = Relu(b) }",
        {},
    )
    with pytest.raises(InvalidInputError, match="no PyTorch counterpart of Celu, Hardmax"):
        GraphModule(model)
