"""Attention by single operators and by fused ones, in ONNX Runtime's CPU provider on one thread.

    python benchmarks/fused_kernels.py

Six attentions in a row; each line gives the speed against the same attention as transformers
exports it, after ONNX Runtime's own full optimization. What pays is in `onnxopt/kernels.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx.parser
import onnxruntime as ort
from measuring import latency_ratios

_LAYERS = 6
# batch, new tokens, tokens in the cache, query heads, key heads, size of a head
_DECODERS = (
    (1, 1, 128, 16, 4, 64),
    (1, 1, 512, 16, 4, 64),
    (1, 1, 2048, 16, 4, 64),
    (4, 1, 128, 16, 4, 64),
    (1, 16, 128, 16, 4, 64),
    (1, 128, 0, 16, 4, 64),
    (1, 512, 0, 16, 4, 64),
)
# batch, queries, heads, size of a head
_ENCODERS = (
    (1, 16, 12, 32),
    (1, 128, 12, 32),
    (1, 197, 3, 64),
    (8, 128, 12, 32),
    (64, 49, 3, 32),
    (1, 512, 12, 64),
)


def encoder(kind: str, heads: int, size: int, *, masked: bool) -> ort.InferenceSession:
    """Attention over merged q, k, v: "parts" or "MultiHeadAttention"."""
    width, body, current = heads * size, [], "x"
    for layer in range(_LAYERS):
        if kind == "MultiHeadAttention":
            bias = ", , , mask" if masked else ""
            body.append(
                f"y{layer} = com.microsoft.MultiHeadAttention <num_heads = {heads}> "
                f"({current}, k, v{bias})"
            )
        else:
            scores = f"c{layer}"
            body.append(f"{_heads(current, f'q{layer}', '0, 2, 1, 3')}")
            body.append(f"{_heads('k', f'k{layer}', '0, 2, 3, 1')}")
            body.append(f"{_heads('v', f'v{layer}', '0, 2, 1, 3')}")
            body.append(f"s{layer} = MatMul(q{layer}, k{layer}) c{layer} = Mul(s{layer}, factor)")
            if masked:
                body.append(f"m{layer} = Add(c{layer}, mask)")
                scores = f"m{layer}"
            body.append(
                f"p{layer} = Softmax<axis = -1>({scores}) o{layer} = MatMul(p{layer}, v{layer})"
            )
            body.append(_merged(f"o{layer}", f"y{layer}"))
        current = f"y{layer}"
    inputs = ", ".join(f"float[B,S,{width}] {name}" for name in "xkv")
    inputs += ", float[B,1,S,S] mask" if masked else ""
    return _session(inputs, f"float[B,S,{width}] {current}", body, heads, heads, size)


def decoder(kind: str, heads: int, keys: int, size: int) -> ort.InferenceSession:
    """Attention with a cache: "repeated" keys, "folded" queries or "GroupQueryAttention".

    All but "repeated" use the fused rotary embedding; "rotary" is "repeated" with it.
    """
    body, current, outputs, half = [_ANGLES], "x", [], size // 2
    inputs = [f"float[B,S,{heads * size}] x"] + [f"float[B,S,{keys * size}] {n}" for n in "kv"]
    inputs += ["float[B,1,S,T] mask", f"float[B,S,{half}] cos", f"float[B,S,{half}] sin"]
    for layer in range(_LAYERS):
        inputs += [f"float[B,{keys},P,{size}] p{part}{layer}" for part in "kv"]
        outputs += [f"float[B,{keys},T,{size}] n{part}{layer}" for part in "kv"]
        query, key = f"q{layer}", f"k{layer}"
        if kind == "repeated":
            body += [_heads(current, f"qh{layer}", "0, 2, 1, 3"), _turned(f"qh{layer}", query)]
            body += [_heads("k", f"kh{layer}", "0, 2, 1, 3", "_keys"), _turned(f"kh{layer}", key)]
        else:
            for source, target, count in ((current, query, heads), ("k", key, keys)):
                flat = target if kind == "GroupQueryAttention" else f"{target}_flat"
                body.append(
                    f"{flat} = com.microsoft.RotaryEmbedding <num_heads = {count}> "
                    f"({source}, rows, cos_rows, sin_rows)"
                )
                if flat != target:
                    suffix = "" if count == heads else "_keys"
                    body.append(_heads(flat, target, "0, 2, 1, 3", suffix))
        if kind == "GroupQueryAttention":
            body.append(
                f"y{layer}, nk{layer}, nv{layer} = com.microsoft.GroupQueryAttention "
                f"<num_heads = {heads}, kv_num_heads = {keys}> ({query}, {key}, v, pk{layer}, "
                f"pv{layer}, last, total, , , , mask)"
            )
        else:
            body.append(_heads("v", f"v{layer}", "0, 2, 1, 3", "_keys"))
            body.append(f"nk{layer} = Concat<axis = 2>(pk{layer}, {key})")
            body.append(f"nv{layer} = Concat<axis = 2>(pv{layer}, v{layer})")
            body += _folded(layer) if kind == "folded" else _repeated(layer)
            body.append(_merged(f"o{layer}", f"y{layer}"))
        current = f"y{layer}"
    outputs.insert(0, f"float[B,S,{heads * size}] {current}")
    return _session(", ".join(inputs), ", ".join(outputs), body, heads, keys, size)


_ANGLES = """
angles = Shape<start = 0, end = 2>(cos) count = ReduceProd<keepdims = 0>(angles)
numbers = Range(zero, count, one) rows = Reshape(numbers, angles)
cos_rows = Reshape(cos, halves) sin_rows = Reshape(sin, halves)
cos_two = Concat<axis = -1>(cos, cos) cos_all = Unsqueeze(cos_two, axis_1)
sin_two = Concat<axis = -1>(sin, sin) sin_all = Unsqueeze(sin_two, axis_1)
all = Shape<start = 3, end = 4>(mask) batch = Shape<start = 0, end = 1>(x)
total = Cast<to = 6>(all) ends = Sub(total, one_32) last = Expand(ends, batch)
"""


def _heads(source: str, target: str, perm: str, suffix: str = "") -> str:
    return (
        f"{target}_s = Reshape({source}, split{suffix}) "
        f"{target} = Transpose<perm = [{perm}]>({target}_s)"
    )


def _merged(source: str, target: str) -> str:
    return (
        f"{target}_t = Transpose<perm = [0, 2, 1, 3]>({source}) "
        f"{target} = Reshape({target}_t, merge)"
    )


def _turned(x: str, target: str) -> str:
    """Rotary embedding by single operators."""
    return (
        f"{x}1, {x}2 = Split<axis = -1>({x}, half) {x}n = Neg({x}2) "
        f"{x}t = Concat<axis = -1>({x}n, {x}1) {x}c = Mul({x}, cos_all) "
        f"{x}s = Mul({x}t, sin_all) {target} = Add({x}c, {x}s)"
    )


def _repeated(layer: int) -> list[str]:
    lines = [
        f"{part}u{layer} = Unsqueeze(n{part}{layer}, axis_2) "
        f"{part}e{layer} = Expand({part}u{layer}, repeats) "
        f"{part}w{layer} = Reshape({part}e{layer}, wide)"
        for part in "kv"
    ]
    return [
        *lines,
        f"kt{layer} = Transpose<perm = [0, 1, 3, 2]>(kw{layer})",
        f"s{layer} = MatMul(q{layer}, kt{layer})",
        f"c{layer} = Mul(s{layer}, factor) m{layer} = Add(c{layer}, mask)",
        f"p{layer} = Softmax<axis = -1>(m{layer}) o{layer} = MatMul(p{layer}, vw{layer})",
    ]


def _folded(layer: int) -> list[str]:
    return [
        f"qf{layer} = Reshape(q{layer}, fold) c{layer} = Mul(qf{layer}, factor)",
        f"kt{layer} = Transpose<perm = [0, 1, 3, 2]>(nk{layer})",
        f"s{layer} = MatMul(c{layer}, kt{layer})",
        f"u{layer} = Reshape(s{layer}, unfold) m{layer} = Add(u{layer}, mask)",
        f"p{layer} = Softmax<axis = -1>(m{layer}) pf{layer} = Reshape(p{layer}, fold)",
        f"of{layer} = MatMul(pf{layer}, nv{layer}) o{layer} = Reshape(of{layer}, unfold)",
    ]


def _session(
    inputs: str, outputs: str, body: list[str], heads: int, keys: int, size: int
) -> ort.InferenceSession:
    integers = {
        "split": [0, 0, heads, size], "split_keys": [0, 0, keys, size],
        "merge": [0, 0, heads * size],
        "fold": [0, keys, -1, 0], "unfold": [0, heads, -1, 0], "wide": [0, heads, -1, size],
        "repeats": [1, 1, heads // keys, 1, 1], "halves": [-1, size // 2], "axis_1": [1],
        "axis_2": [2], "half": [size // 2, size // 2],
    }  # fmt: skip
    text = " ".join(body)
    words = set(text.replace("(", " ").replace(")", " ").replace(",", " ").split())
    constants = [
        f"int64[{len(items)}] {name} = {{{', '.join(map(str, items))}}}"
        for name, items in integers.items()
        if name in words
    ]
    constants += [
        f"{kind} {name} = {{{number}}}"
        for kind, name, number in (
            ("float", "factor", size**-0.5),
            ("int64", "zero", 0),
            ("int64", "one", 1),
            ("int32", "one_32", 1),
        )
        if name in words
    ]
    head = '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>'
    model = onnx.parser.parse_model(
        f"{head} g ({inputs}) => ({outputs}) <{', '.join(constants)}> {{ {text} }}"
    )
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def main() -> None:
    ort.set_default_logger_severity(4)
    draw = np.random.default_rng(0).standard_normal
    for batch, new, past, heads, keys, size in _DECODERS:
        sizes = {"B": batch, "S": new, "P": past, "T": past + new}
        kinds = ("rotary", "folded", "GroupQueryAttention")
        base = decoder("repeated", heads, keys, size)
        feeds = _feeds(base, sizes, draw)
        hidden = np.arange(past + new)[None] > np.arange(past, past + new)[:, None]
        feeds["mask"] = np.broadcast_to(
            np.where(hidden, np.float32(-1e9), np.float32(0)), feeds["mask"].shape
        )
        ratios = latency_ratios(base, [decoder(k, heads, keys, size) for k in kinds], feeds)
        told = ", ".join(f"{k} {r[0]:.2f}" for k, r in zip(kinds, ratios, strict=True))
        print(f"decoder {batch}x{new} + {past}, {heads} heads on {keys}, size {size}: {told}")
    for batch, length, heads, size in _ENCODERS:
        for masked in (False, True):
            base = encoder("parts", heads, size, masked=masked)
            feeds = _feeds(base, {"B": batch, "S": length}, draw)
            (ratio,) = latency_ratios(
                base, [encoder("MultiHeadAttention", heads, size, masked=masked)], feeds
            )
            mask = "with a mask" if masked else "without one"
            print(f"encoder {batch}x{length}, {heads} heads, size {size}, {mask}: {ratio[0]:.2f}")


def _feeds(session: ort.InferenceSession, sizes: dict[str, int], draw: Any) -> dict[str, Any]:
    return {
        one.name: draw([sizes.get(dim, dim) for dim in one.shape]).astype(np.float32)
        for one in session.get_inputs()
    }


if __name__ == "__main__":
    main()
