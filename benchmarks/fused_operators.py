"""Fused operators beside the ones that they replace, in ONNX Runtime's CPU provider on one thread.

    python benchmarks/fused_operators.py [NAME ...]

Four in a row; each figure is the speed of the fused operator against the single ones after ONNX
Runtime's own full optimization, for a few sizes: the median of six pairs of fresh sessions, and the
lowest and highest of them, since where its weights lie in memory makes one session up to 10 %
faster than an equal one. What pays is in `onnxopt/kernels.py`; attention and rotary embedding are
measured by `fused_kernels.py`.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
from measuring import latency_ratios
from onnx import numpy_helper

_LAYERS = 4
_PAIRS = 6
# Names of values, not of attributes (`name=`) or domains (`name.`).
_NAME = re.compile(r"(?<![\w.])[a-z]\w*(?![\w.=])")
Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Case:
    """One fused operator.

    Attributes:
        parts: The single operators, from `x` to `y`; other names are constants or inner values.
        fused: The same with the fused operator.
        weights: Shapes of the constants, with `H` for the last axis of x and `C` for its second, or
            the constants that are joined on their last axis, as `a|b`.
        sizes: Shapes of `x`.
        layers: How many in a row.
    """

    parts: str
    fused: str
    weights: Mapping[str, str]
    sizes: Sequence[Shape]
    layers: int = _LAYERS


_TOKENS = ((1, 1, 1024), (1, 128, 384), (8, 128, 768))
_ROWS = ((1, 1024), (16, 1024), (128, 384))
_IMAGES = ((1, 16, 56, 56), (1, 64, 28, 28), (1, 256, 14, 14))
_GELU = "h = Mul(b, half) e = Div(b, root) f = Erf(e) p = Add(f, one) y = Mul(h, p)"
_TANH = (
    "c = Mul(x, x) d = Mul(c, x) e = Mul(d, small) f = Add(x, e) k = Mul(f, turn) "
    "t = Tanh(k) p = Add(t, one) h = Mul(x, half) y = Mul(h, p)"
)
_NUMBERS = {
    "half": 0.5, "one": 1.0, "root": 2**0.5, "small": 0.044715, "turn": (2 / np.pi) ** 0.5,
    "sharp": 1.702, "two": 2.0, "eps": 1e-6, "factor": 0.125,
}  # fmt: skip
_RMS = "q = Pow({0}, two) m = ReduceMean<axes=[-1]>(q) e = Add(m, eps) r = Sqrt(e) d = Div({0}, r)"
_CHANNELS = "LayerNormalization<axis=-1, epsilon=1e-6>"

CASES: dict[str, Case] = {
    "Gelu": Case(_GELU.replace("b,", "x,"), "y = com.microsoft.Gelu(x)", {}, _TOKENS),
    "BiasGelu": Case(
        f"b = Add(x, bias) {_GELU}", "y = com.microsoft.BiasGelu(x, bias)", {"bias": "H"}, _TOKENS
    ),
    "FastGelu": Case(_TANH, "y = com.microsoft.FastGelu(x)", {}, _TOKENS),
    "FastGelu with bias": Case(
        "z = Add(x, bias) " + _TANH.replace("x", "z"),
        "y = com.microsoft.FastGelu(x, bias)", {"bias": "H"}, _TOKENS,
    ),
    "QuickGelu": Case(
        "k = Mul(x, sharp) s = Sigmoid(k) y = Mul(x, s)",
        "y = com.microsoft.QuickGelu<alpha=1.702>(x)", {}, _TOKENS,
    ),
    "QuickGelu as SiLU": Case(
        "s = Sigmoid(x) y = Mul(x, s)", "y = com.microsoft.QuickGelu<alpha=1.0>(x)", {}, _TOKENS
    ),
    "SimplifiedLayerNormalization": Case(
        f"{_RMS.format('x')} y = Mul(d, g)",
        "y = SimplifiedLayerNormalization<axis=-1, epsilon=1e-6>(x, g)", {"g": "H"}, _TOKENS,
    ),
    "SkipLayerNormalization": Case(
        f"a = Sum(x, x0) y = {_CHANNELS}(a, g, bias)",
        "y = com.microsoft.SkipLayerNormalization<epsilon=1e-6>(x, x0, g, bias)",
        {"g": "H", "bias": "H"}, _TOKENS,
    ),
    "SkipSimplifiedLayerNormalization": Case(
        f"a = Sum(x, x0) {_RMS.format('a')} y = Mul(d, g)",
        "y = com.microsoft.SkipSimplifiedLayerNormalization<epsilon=1e-6>(x, x0, g)",
        {"g": "H"}, _TOKENS,
    ),
    "EmbedLayerNormalization": Case(
        "r = Abs(x) i = Cast<to=7>(r) w = Gather(words, i) t = Gather(types, i) a = Add(w, t) "
        "p = Gather(places, i) s = Add(a, p) y = LayerNormalization<axis=-1>(s, g, bias)",
        "r = Abs(x) i = Cast<to=6>(r) y, u = com.microsoft.EmbedLayerNormalization<epsilon=1e-5>"
        "(i, i, words, places, types, g, bias, , i)",
        {"words": "9,384", "types": "9,384", "places": "9,384", "g": "384", "bias": "384"},
        ((1, 16), (1, 128), (8, 128)), layers=1,
    ),
    "FusedMatMul with alpha": Case(
        "m = MatMul(x, w) y = Mul(m, factor)", "y = com.microsoft.FusedMatMul<alpha=0.125>(x, w)",
        {"w": "H,H"}, _TOKENS,
    ),
    "FusedMatMul with transB": Case(
        "t = Transpose<perm=[0, 2, 1]>(x) m = MatMul(x, t) y = MatMul(m, x)",
        "m = com.microsoft.FusedMatMul<transB=1>(x, x) y = MatMul(m, x)", {},
        ((8, 64, 64), (12, 128, 32), (12, 512, 64)),
    ),
    "FusedGemm": Case(
        "m = Gemm(x, w, bias) y = Relu(m)",
        'y = com.microsoft.FusedGemm<activation="Relu">(x, w, bias)',
        {"w": "H,H", "bias": "H"}, _ROWS,
    ),
    "FusedConv": Case(
        "m = Conv<pads=[1, 1, 1, 1]>(x, w, bias) y = Relu(m)",
        'y = com.microsoft.FusedConv<activation="Relu", pads=[1, 1, 1, 1]>(x, w, bias)',
        {"w": "C,C,3,3", "bias": "C"}, _IMAGES,
    ),
    "FusedConv with HardSigmoid": Case(
        "m = Conv<pads=[1, 1, 1, 1]>(x, w, bias) y = HardSigmoid(m)",
        'y = com.microsoft.FusedConv<activation="HardSigmoid", activation_params=[0.2, 0.5], '
        "pads=[1, 1, 1, 1]>(x, w, bias)",
        {"w": "C,C,3,3", "bias": "C"}, _IMAGES,
    ),
    "packed QKV": Case(
        "q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv) a = Add(q, k) y = Add(a, v)",
        "p = MatMul(x, w) q, k, v = Split<axis=-1>(p, thirds) a = Add(q, k) y = Add(a, v)",
        {"wq": "H,H", "wk": "H,H", "wv": "H,H", "w": "wq|wk|wv"}, _TOKENS,
    ),
    "packed QKV with biases": Case(
        "mq = MatMul(x, wq) q = Add(mq, bias) mk = MatMul(x, wk) k = Add(mk, bias) "
        "mv = MatMul(x, wv) v = Add(mv, bias) a = Add(q, k) y = Add(a, v)",
        "m = MatMul(x, w) p = Add(m, biases) q, k, v = Split<axis=-1>(p, thirds) "
        "a = Add(q, k) y = Add(a, v)",
        {"wq": "H,H", "wk": "H,H", "wv": "H,H", "w": "wq|wk|wv", "bias": "H",
         "biases": "bias|bias|bias"}, _TOKENS,
    ),
    "packed gate and up": Case(
        "g = MatMul(x, wg) u = MatMul(x, wu) s = Sigmoid(g) z = Mul(g, s) h = Mul(z, u) "
        "y = MatMul(h, wd)",
        "p = MatMul(x, w) g, u = Split<axis=-1>(p, halves) s = Sigmoid(g) z = Mul(g, s) "
        "h = Mul(z, u) y = MatMul(h, wd)",
        {"wg": "H,2H", "wu": "H,2H", "w": "wg|wu", "wd": "2H,H"}, _TOKENS,
    ),
}  # fmt: skip


def session(case: Case, fused: bool, size: Shape) -> ort.InferenceSession:
    """Four of them in a row, each with weights of its own."""
    rng = np.random.default_rng(0)
    letters = {"H": size[-1], "C": size[1]}
    weights = {name: np.asarray(number, np.float32) for name, number in _NUMBERS.items()}
    weights |= {"thirds": np.full(3, size[-1]), "halves": np.full(2, 2 * size[-1])}
    body, current = [], "x"
    for layer in range(case.layers):
        names = {name: f"{name}_{layer}" for name in _NAME.findall(case.parts + " " + case.fused)}
        names |= {name: name for name in weights if name in names} | {"x": current, "x0": "x"}
        for name, shape in case.weights.items():
            if "|" in shape:
                parts = [weights[names[part]] for part in shape.split("|")]
                weights[names[name]] = np.concatenate(parts, axis=-1)
            else:
                sizes = [_length(part, letters) for part in shape.split(",")]
                scale = np.prod(sizes[1:] if len(sizes) > 2 else sizes[:1]) ** -0.5
                weights[names[name]] = (rng.standard_normal(sizes) * scale).astype(np.float32)
        body.append(_renamed(case.fused if fused else case.parts, names))
        current = names["y"]
    text, axes = " ".join(body), ",".join(map(str, size))
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]> '
        f"g (float[{axes}] x) => (float {current}) {{ {text} }}"
    )
    used = set(_NAME.findall(text))
    model.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in weights.items() if name in used
    )
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _renamed(text: str, names: Mapping[str, str]) -> str:
    return _NAME.sub(lambda match: names[match[0]], text)


def _length(text: str, letters: Mapping[str, int]) -> int:
    """An axis as `3`, `H` or `2H`."""
    times, letter = re.fullmatch(r"(\d*)([HC]?)", text).groups()  # type: ignore[union-attr]
    return int(times or 1) * (letters[letter] if letter else 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these")
    parser.add_argument("--seconds", type=float, default=3, help="for each figure")
    arguments = parser.parse_args()
    for name in arguments.names or CASES:
        case, told = CASES[name], []
        for size in case.sizes:
            feeds = {"x": np.random.default_rng(1).standard_normal(size).astype(np.float32)}
            ratios = []
            for pair in range(_PAIRS):
                made = {kind: session(case, kind, size) for kind in (pair % 2 > 0, pair % 2 < 1)}
                expected, actual = (made[kind].run(None, feeds)[0] for kind in (False, True))
                np.testing.assert_allclose(actual, expected, rtol=1e-2, atol=1e-3)
                seconds = arguments.seconds / _PAIRS
                ratios += latency_ratios(made[False], [made[True]], feeds, seconds=seconds)
            middles = sorted(ratio[0] for ratio in ratios)
            shape = "x".join(map(str, size))
            told.append(f"{shape} {np.median(middles):.2f} ({middles[0]:.2f} to {middles[-1]:.2f})")
        print(f"{name}: {', '.join(told)}", flush=True)


if __name__ == "__main__":
    main()
