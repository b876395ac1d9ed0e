"""Small faults that a real rewrite could make, and honest rewrites beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from onnxopt.comparing import compare
from onnxopt.runtime.parity.check import check_parity

HEADER = '<ir_version: 9, opset_import: ["": 18]>\n'


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def build(text: str, **weights: np.ndarray) -> ir.Model:
    proto = onnx.parser.parse_model(HEADER + text)
    for name, array in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    return ir.from_proto(proto)


@dataclasses.dataclass(frozen=True)
class Pair:
    """A graph and the replacements in its text that a rewrite made."""

    name: str
    text: str
    changes: tuple[tuple[str, str], ...]
    weights: Callable[[], dict[str, np.ndarray]] = dict

    def models(self) -> tuple[ir.Model, ir.Model]:
        changed = self.text
        for old, new in self.changes:
            assert old in changed
            changed = changed.replace(old, new)
        return tuple(build(text, **self.weights()) for text in (self.text, changed))


IDS = "int64[batch, seq] input_ids, int64[batch, seq] attention_mask"
ENCODER = f"""g ({IDS}) => (float[batch, seq, 16] y) {{
    e = Gather(words, input_ids) q = MatMul(e, wq) k = MatMul(e, wk) v = MatMul(e, wv)
    kt = Transpose<perm = [0, 2, 1]>(k) s = MatMul(q, kt)
    m = Cast<to = 1>(attention_mask) n = Sub(one, m) b = Mul(n, low) u = Unsqueeze(b, axis)
    t = Add(s, u) p = Softmax<axis = -1>(t) c = MatMul(p, v) y = Add(c, e) }}"""


def encoder_weights() -> dict[str, np.ndarray]:
    weights = {w: normal(16, 16, seed=i) / 4 for i, w in enumerate(("wq", "wk", "wv"))}
    weights |= {"words": normal(40, 16, seed=9), "one": np.float32([1]), "low": np.float32([-1e9])}
    return weights | {"axis": np.array([1])}


DETECTOR = """g (float[batch, 3, 32, 32] x) => (float[batch, 64, 9] y) {
    c = Conv<strides = [4, 4]>(x, k) s = Reshape(c, shape) t = Transpose<perm = [0, 2, 1]>(s)
    b, r = Split<axis = 2>(t, sizes) f = Add(b, far) boxes = Mul(f, pixels) d = Mul(r, unit)
    scores = Sigmoid(d) y = Concat<axis = 2>(boxes, scores) }"""


def detector_weights() -> dict[str, np.ndarray]:
    return {
        "k": normal(9, 3, 4, 4) / 7,
        "shape": np.array([0, 9, 64]),
        "sizes": np.array([4, 5]),
        "far": np.float32([1]),
        "pixels": np.float32([640]),
        "unit": np.float32([1]),
    }


MASKED = """g (float[batch, 24, 8] x) => (float[batch, 24, 9] y) {
    a = MatMul(x, w) z = Mul(x, zero) f = Sub(z, huge) i, j = Split<axis = 2>(f, sizes)
    y = Concat<axis = 2>(a, i) }"""


def masked_weights() -> dict[str, np.ndarray]:
    return {
        "w": normal(8, 8) / 3,
        "zero": np.float32([0]),
        "huge": np.float32([1e7]),
        "sizes": np.array([1, 7]),
    }


NORM = """g (int64[batch, seq] ids) => (float[batch, seq, 16] y) {
    e = Gather(words, ids) y = LayerNormalization<axis = -1, epsilon = 0.00001>(e, gain, bias) }"""


def norm_weights(size: float = 0.02) -> dict[str, np.ndarray]:
    return {
        "words": normal(30, 16) * np.float32(size),
        "gain": 1 + normal(16, seed=1) / 5,
        "bias": normal(16, seed=2),
    }


UNARY = "g (float[batch, 16] x) => (float[batch, 16] y) { y = OP }"
CLASSIFIER = """g (float[batch, 32] x) => (float[batch, 10] y) {
    h = MatMul(x, w1) r = Relu(h) l = MatMul(r, w2) o = Add(l, c) y = Softmax<axis = -1>(o) }"""


def classifier_weights() -> dict[str, np.ndarray]:
    return {"w1": normal(32, 32) / 6, "w2": normal(32, 10, seed=1) / 6, "c": normal(10, seed=2)}


FAULTS = [
    Pair(
        "swapped operands of Sub",
        "g (float[batch, 16] x) => (float[batch, 16] y) { a = MatMul(x, w) y = Sub(a, x) }",
        (("Sub(a, x)", "Sub(x, a)"),),
        lambda: {"w": normal(16, 16) / 4},
    ),
    Pair(
        "swapped operands of Sub whose result is squared, and then not",
        "g (float[batch, 16] x) => (float[batch, 16] y) "
        "{ a = Sub(x, c) b = Mul(a, a) y = Mul(b, a) }",
        (("Sub(x, c)", "Sub(c, x)"),),
        lambda: {"c": normal(16)},
    ),
    Pair(
        "axis of Softmax on a square",
        "g (float[batch, 16, 16] x) => (float[batch, 16, 16] y) { y = Softmax<axis = 2>(x) }",
        (("axis = 2", "axis = 1"),),
    ),
    Pair("dropped mask", ENCODER, (("Add(s, u)", "Identity(s)"),), encoder_weights),
    Pair("mask of the wrong sign", ENCODER, (("Sub(one, m)", "Identity(m)"),), encoder_weights),
    Pair(
        "one more row of a Slice",
        "g (float[batch, seq, 8] x) => (float[batch, 8] y) { s = Slice(x, start, end, axis) "
        "y = ReduceMean<keepdims = 0>(s, axis) }",
        (("start, end", "zero, end"),),
        lambda: {
            n: np.array([v]) for n, v in (("start", 1), ("end", 99), ("axis", 1), ("zero", 0))
        },
    ),
    Pair(
        "end of a Slice one short",
        "g (float[batch, 20, 8] x) => (float[batch, n, 8] y) { s = Slice(x, start, end, axis) "
        "y = CumSum(s, where) }",
        (("start, end", "other, end2"),),
        lambda: {
            **{n: np.array([v]) for n, v in (("start", 2), ("end", 18), ("axis", 1))},
            **{n: np.array([v]) for n, v in (("other", 1), ("end2", 17))},
            "where": np.array(1),
        },
    ),
    Pair("epsilon of 1e-6 with small variances", NORM, (("0.00001", "0.000001"),), norm_weights),
    Pair(
        "epsilon of 1e-6 with variances of one",
        NORM,
        (("0.00001", "0.000001"),),
        lambda: norm_weights(1.0),
    ),
    Pair(
        "epsilon of 1e-6 behind an image",
        "g (float[batch, 3, height, width] x) => (float[batch, 3, height, width] y) "
        "{ y = InstanceNormalization<epsilon = 0.00001>(x, g, b) }",
        (("0.00001", "0.000001"),),
        lambda: {"g": np.ones(3, np.float32), "b": np.zeros(3, np.float32)},
    ),
    Pair(
        "overflow of int32",
        "g (int64[batch, 16] x) => (int64[batch, 16] y) { y = Mul(x, c) }",
        (
            (
                "y = Mul(x, c)",
                "a = Cast<to = 6>(x) d = Cast<to = 6>(c) b = Mul(a, d) y = Cast<to = 7>(b)",
            ),
        ),
        lambda: {"c": np.array([1 << 30])},
    ),
    Pair(
        "division of negative integers by a shift",
        "g (int64[batch, 16] x) => (int64[batch, 16] y) { y = Div(x, c) }",
        (("y = Div(x, c)", "f = Cast<to = 1>(x) d = Div(f, e) i = Floor(d) y = Cast<to = 7>(i)"),),
        lambda: {"c": np.array([2]), "e": np.float32([2])},
    ),
    Pair(
        "remainder of negative integers",
        "g (int64[batch, 16] x) => (int64[batch, 16] y) { y = Mod(x, c) }",
        (("Mod(x, c)", "Mod<fmod = 1>(x, c)"),),
        lambda: {"c": np.array([3])},
    ),
    Pair(
        "dropped Abs of integers",
        "g (int64[batch, 16] x) => (int64[batch, 16] y) { y = Abs(x) }",
        (("Abs", "Identity"),),
    ),
    Pair(
        "truncation in place of rounding",
        "g (float[batch, 16] x) => (int32[batch, 16] y) { r = Round(x) y = Cast<to = 6>(r) }",
        (("Round(x)", "Identity(x)"),),
    ),
    Pair(
        "mode of Resize",
        "g (float[batch, 3, 16, 16] x) => (float[batch, 3, 32, 32] y) "
        '{ y = Resize<mode = "linear">(x, , scales) }',
        (('mode = "linear"', 'mode = "linear", coordinate_transformation_mode = "align_corners"'),),
        lambda: {"scales": np.float32([1, 1, 2, 2])},
    ),
    Pair(
        "nearest mode of Resize",
        "g (float[batch, 3, 20, 20] x) => (float[batch, 3, 13, 13] y) "
        '{ y = Resize<mode = "nearest">(x, , , sizes) }',
        (('mode = "nearest"', 'mode = "nearest", nearest_mode = "floor"'),),
        lambda: {"sizes": np.array([3, 3, 13, 13])[[0, 1, 2, 3]]},
    ),
    Pair(
        "approximation of Gelu",
        "g (float[batch, 16] x) => (float[batch, 16] y) { d = Mul(x, r) e = Erf(d) a = Add(e, one) "
        "m = Mul(x, a) y = Mul(m, half) }",
        (
            (
                "d = Mul(x, r) e = Erf(d)",
                "x2 = Mul(x, x) x3 = Mul(x2, x) k = Mul(x3, c3) i = Add(x, k) "
                "d = Mul(i, c1) e = Tanh(d)",
            ),
        ),
        lambda: {
            "r": np.float32([0.5**0.5]),
            "one": np.float32([1]),
            "half": np.float32([0.5]),
            "c3": np.float32([0.044715]),
            "c1": np.float32([(2 / np.pi) ** 0.5]),
        },
    ),
    Pair(
        "score of a detector off by 0.1 %",
        DETECTOR,
        (("Mul(r, unit)", "Mul(r, off)"),),
        lambda: detector_weights() | {"off": np.float32([1.001])},
    ),
    Pair(
        "weight beside a column of -1e7",
        MASKED,
        (("MatMul(x, w)", "MatMul(x, w2)"),),
        lambda: masked_weights() | {"w2": masked_weights()["w"] * np.float32(1.01)},
    ),
    Pair(
        "weight beside one entry of -1e7 in a vector",
        "g (float[batch, 8] x) => (float[batch, 9] y) { a = MatMul(x, w) s = Slice(x, a0, a1, a1) "
        "z = Mul(s, zero) f = Sub(z, huge) y = Concat<axis = 1>(a, f) }",
        (("MatMul(x, w)", "MatMul(x, w2)"),),
        lambda: (
            masked_weights()
            | {
                "w2": masked_weights()["w"] * np.float32(1.01),
                "a0": np.array([0]),
                "a1": np.array([1]),
            }
        ),
    ),
    Pair(
        "one class of 10",
        CLASSIFIER,
        (("Add(l, c)", "Add(l, c2)"),),
        lambda: (
            classifier_weights()
            | {
                "c2": classifier_weights()["c"]
                * (1 + 0.001 * (np.arange(10) == 3)).astype(np.float32)
            }
        ),
    ),
    Pair(
        "tiny outputs off by 1 %",
        "g (float[batch, 16] x) => (float[batch, 16] y) { a = Mul(x, c) y = Tanh(a) }",
        (("Mul(x, c)", "Mul(x, d)"),),
        lambda: {"c": np.float32([1e-6]), "d": np.float32([1.01e-6])},
    ),
    Pair(
        "one channel of an image",
        "g (float[batch, 3, height, width] x) => (float[batch, 8, height, width] y) "
        "{ c = Conv(x, k) y = Mul(c, s) }",
        (("Mul(c, s)", "Mul(c, s2)"),),
        lambda: {
            "k": normal(8, 3, 1, 1),
            "s": np.float32([1e4, 1, 1, 1, 1e-2, 1, 1, 1]).reshape(8, 1, 1),
            "s2": np.float32([1e4, 1, 1, 1, 1.01e-2, 1, 1, 1]).reshape(8, 1, 1),
        },
    ),
    Pair(
        "Where with the branches of NaN",
        "g (float[batch, 16] x) => (float[batch, 16] y) { l = Log(x) y = Mul(l, c) }",
        (("Log(x)", "Log(a) a = Abs(x)"),),
        lambda: {"c": np.float32([2])},
    ),
    Pair(
        "trip count of a Loop",
        "g (int64 M, float[4] x) => (float[4] y) { c = Constant<value = bool {1}>() "
        "y = Loop(M, c, x) <body = b (int64 i, bool k, float[4] a) => (bool kk, float[4] z) "
        "{ kk = Identity(k) z = Add(a, x) }> }",
        (("y = Loop(M, c, x)", "y = Loop(one, c, x)"),),
        lambda: {"one": np.array(1)},
    ),
    Pair(
        "order of a reversed axis",
        "g (float[batch, 6, 6] x) => (float[batch, 6, 6] y) { y = Transpose<perm = [0, 2, 1]>(x) }",
        (("perm = [0, 2, 1]", "perm = [0, 1, 2]"),),
    ),
]


@pytest.mark.parametrize("pair", FAULTS, ids=lambda pair: pair.name)
def test_fault_is_caught_when_a_rewrite_makes_it(pair: Pair) -> None:
    good, bad = pair.models()
    result = compare(good, bad)
    assert not result.passed, [o.parity for o in result.outputs]
    assert check_parity(good, bad).status == "failed"


@pytest.mark.parametrize("pair", FAULTS, ids=lambda pair: pair.name)
def test_no_alarm_when_the_model_is_the_same(pair: Pair) -> None:
    good, _ = pair.models()
    again, _ = pair.models()
    result = compare(good, again)
    assert result.passed, result.reasons


def _decomposed_norm() -> dict[str, np.ndarray]:
    weights = {"two": np.float32([2]), "epsilon": np.float32([1e-5]), "last": np.array([-1])}
    return norm_weights() | weights


HONEST = [
    Pair(
        "normalization in its parts",
        NORM,
        (
            (
                "y = LayerNormalization<axis = -1, epsilon = 0.00001>(e, gain, bias)",
                "m = ReduceMean(e, last) d = Sub(e, m) s = Pow(d, two) v = ReduceMean(s, last) "
                "w = Add(v, epsilon) r = Sqrt(w) n = Div(d, r) g = Mul(n, gain) y = Add(g, bias)",
            ),
        ),
        _decomposed_norm,
    ),
    Pair(
        "division by a reciprocal",
        DETECTOR,
        (("Mul(f, pixels)", "Div(f, inverse)"),),
        lambda: detector_weights() | {"inverse": np.float32([1 / 640])},
    ),
    Pair(
        "scale moved into the weight",
        MASKED,
        (("MatMul(x, w)", "Mul(b, three) b = MatMul(x, third)"),),
        lambda: (
            masked_weights()
            | {"three": np.float32([3]), "third": masked_weights()["w"] / np.float32(3)}
        ),
    ),
    Pair(
        "another order of sums",
        CLASSIFIER,
        (("l = MatMul(r, w2)", "s = Gather<axis = 1>(r, back) l = MatMul(s, w3)"),),
        lambda: (
            classifier_weights()
            | {"back": np.arange(31, -1, -1), "w3": classifier_weights()["w2"][::-1].copy()}
        ),
    ),
    Pair(
        "Gelu by Tanh of a difference",
        UNARY.replace("y = OP", "s = Sigmoid(x) y = Mul(x, s)"),
        (("s = Sigmoid(x)", "h = Mul(x, half) t = Tanh(h) a = Mul(t, half) s = Add(a, half)"),),
        lambda: {"half": np.float32([0.5])},
    ),
    Pair(
        "scores scaled before the product",
        ENCODER,
        (("Add(s, u)", "Add(s2, u) s2 = MatMul(q2, kt) q2 = Mul(q, unit)"),),
        lambda: encoder_weights() | {"unit": np.float32([1])},
    ),
    Pair(
        "mask by Where",
        ENCODER,
        (("t = Add(s, u)", "c0 = Equal(u, nothing) t = Where(c0, s, lowest)"),),
        lambda: encoder_weights() | {"nothing": np.float32(0), "lowest": np.float32(-3e38)},
    ),
    Pair(
        "one channel much larger than the others",
        "g (float[batch, 3, height, width] x) => (float[batch, 8, height, width] y) "
        "{ c = Conv(x, k) y = Mul(c, s) }",
        (("Mul(c, s)", "Conv(x, k2)"),),
        lambda: {
            "k": normal(8, 3, 1, 1),
            "s": np.float32([1e4, 1, 1, 1, 1e-2, 1, 1, 1]).reshape(8, 1, 1),
            "k2": normal(8, 3, 1, 1)
            * np.float32([1e4, 1, 1, 1, 1e-2, 1, 1, 1]).reshape(8, 1, 1, 1),
        },
    ),
]


@pytest.mark.parametrize("pair", HONEST, ids=lambda pair: pair.name)
def test_no_alarm_when_the_rewrite_is_honest(pair: Pair) -> None:
    model, rewritten = pair.models()
    result = compare(model, rewritten)
    assert result.passed, result.reasons
    parity = check_parity(model, rewritten)
    assert parity.status == "passed", parity.reasons
