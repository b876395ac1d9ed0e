"""Attention as exporters spell it: a graph with a choice for all that they do differently."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
from helpers.rewriting import parse_model

from onnxopt.passes.cleanup.constants import FoldConstants

HEADS, SIZE = 4, 8
SIZES = ({"N": 1, "S": 1, "P": 3}, {"N": 1, "S": 4, "P": 2}, {"N": 2, "S": 1, "P": 5})
BATCHES = (*SIZES, {"N": 2, "S": 3, "P": 1})

# What stands between Softmax and the second MatMul, and between scores and Softmax.
BETWEEN = {
    "nothing": "{0}",
    "identity": "Identity({0})",
    "cast": "Cast<to = 1>({0})",
    "dropout": "Dropout({0})",
}
SCALES = {
    "scores": ("qh", "kt", "Mul(product, factor)"),
    "scores divided": ("qh", "kt", "Div(product, root)"),
    "query": ("Mul(qh, factor)", "kt", "product"),
    "key": ("qh", "Mul(factor, kt)", "product"),
    "both": ("Mul(qh, half)", "Mul(kt, half)", "product"),
}
MASKS = {
    "none": "{s}",
    "added": "Add({s}, mask)",
    "swapped": "Add(mask, {s})",
    "kept": "Where(keep, {s}, low)",
    "dropped": "Where(drop, low, {s})",
}
GUARDS = {"none": "{0}", "isnan": "Where(IsNaN({0}), zero_number, {0})"}
KEYS = {
    "swapped": "kr = Transpose<perm = [0, 2, 1, 3]>(ks) kt = Transpose<perm = [0, 1, 3, 2]>(kr)",
    "direct": "kt = Transpose<perm = [0, 2, 3, 1]>(ks)",
    "joined": "kr = Transpose<perm = [0, 2, 1, 3]>(ks) kj = Reshape(kr, joined) "
    "ku = Transpose<perm = [0, 2, 1]>(kj) kt = Reshape(ku, unjoined)",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spelling:
    """How to write it.

    Attributes:
        scale: A key of `SCALES`.
        mask: A key of `MASKS`; causal where it needs to be.
        key: A key of `KEYS`; not used with a cache.
        between: A key of `BETWEEN`.
        guard: A key of `GUARDS`.
        key_heads: Heads of the keys.
        repeat: "expand", "concat" or "tile", for fewer key heads.
        past: Keys and values are appended to a cache.
        causal: The mask hides what comes after; else what comes before.
        empty_rows: The mask hides what comes after and the place itself, so the first query has
            no key.
        batch: A number or symbol.
        output: More graph outputs, as text.
        tail: More nodes, as text.
        dtype: Name of the element type in ONNX text.
    """

    scale: str = "scores"
    mask: str = "none"
    key: str = "swapped"
    between: str = "nothing"
    guard: str = "none"
    key_heads: int = HEADS
    repeat: str = "expand"
    past: bool = False
    causal: bool = True
    empty_rows: bool = False
    batch: str = "N"
    output: str = ""
    tail: str = ""
    dtype: str = "float"


def attention_model(spelling: Spelling) -> ir.Model:
    """A model with inputs q, k, v `[batch, S, heads * 8]` (and pk, pv) and the output y."""
    s, kind = spelling, spelling.dtype
    width, groups = s.key_heads * SIZE, HEADS // s.key_heads
    body = [_places(s)] if s.mask != "none" else []
    body.append("qs = Reshape(q, split) qh = Transpose<perm = [0, 2, 1, 3]>(qs)")
    body.append("ks = Reshape(k, split_keys) vs = Reshape(v, split_keys)")
    body.append("vh = Transpose<perm = [0, 2, 1, 3]>(vs)")
    value = "vh"
    if s.past or groups > 1:
        body.append("kh = Transpose<perm = [0, 2, 1, 3]>(ks)")
        key = "kh"
        if s.past:
            body.append("pr_k = Concat<axis = -2>(pk, kh) pr_v = Concat<axis = 2>(pv, vh)")
            key, value = "pr_k", "pr_v"
        if groups > 1:
            body += [_repeated(s.repeat, key, "kw"), _repeated(s.repeat, value, "vw")]
            key, value = "kw", "vw"
        body.append(f"kt = Transpose<perm = [0, 1, 3, 2]>({key})")
    else:
        body.append(KEYS[s.key])
    left, right, scaled = SCALES[s.scale]
    body.append(f"left = Identity({left}) right = Identity({right})")
    body.append(f"product = MatMul(left, right) scaled = Identity({scaled})")
    body.append(f"masked = Identity({MASKS[s.mask].format(s='scaled')})")
    body.append(f"before = Identity({BETWEEN[s.between].format('masked')})")
    body.append("weights = Softmax<axis = -1>(before)")
    body.append(f"guarded = Identity({GUARDS[s.guard].format('weights')})")
    body.append(f"after = Identity({BETWEEN[s.between].format('guarded')})")
    body.append(f"mixed = MatMul(after, {value})")
    body.append(f"back = Transpose<perm = [0, 2, 1, 3]>(mixed) y = Reshape(back, merge) {s.tail}")
    inputs = [f"{kind}[{s.batch},S,{HEADS * SIZE}] q"]
    inputs += [f"{kind}[{s.batch},S,{width}] {name}" for name in "kv"]
    outputs = [f"{kind}[{s.batch},S,{HEADS * SIZE}] y"]
    if s.past:
        inputs += [f"{kind}[{s.batch},{s.key_heads},P,{SIZE}] {name}" for name in ("pk", "pv")]
        outputs += [f"{kind}[{s.batch},{s.key_heads},T,{SIZE}] {name}" for name in ("pr_k", "pr_v")]
    text = " ".join(_flat(body))
    if s.key == "joined":  # its targets are constants
        inputs, outputs = ([one.replace("S", "5") for one in group] for group in (inputs, outputs))
    numbers = {
        "factor": SIZE**-0.5, "root": SIZE**0.5, "half": SIZE**-0.25, "zero_number": 0.0,
        "low": float("-inf") if s.guard != "none" else -1e4,
    }  # fmt: skip
    integers = {
        "split": [0, 0, HEADS, SIZE], "split_keys": [0, 0, s.key_heads, SIZE], "merge": [0, 0, 32],
        "repeats": [1, 1, groups, 1, 1], "wide": [0, HEADS, -1, SIZE], "joined": [-1, 5, SIZE],
        "unjoined": [-1, HEADS, SIZE, 5], "two": [2], "zero": 0, "one": 1, "a1": [1], "a2": [2],
    }  # fmt: skip
    dtype = {"float": np.float32, "float16": np.float16}[kind]
    words = set(text.replace("(", " ").replace(")", " ").replace(",", " ").split())
    weights = {name: np.array(item, dtype) for name, item in numbers.items() if name in words}
    weights |= {name: np.array(item, np.int64) for name, item in integers.items() if name in words}
    model: ir.Model = parse_model(
        f"g ({', '.join(inputs)}) => ({', '.join(outputs)}{s.output}) {{ {text} }}", weights
    )
    FoldConstants()(model)
    return model


def _places(s: Spelling) -> str:
    """Places of queries and keys, and the masks that follow from them."""
    start = "past = Shape<start = 2, end = 3>(pk)" if s.past else "past = Sub(new, new)"
    order = "LessOrEqual(keys, column)" if s.causal else "LessOrEqual(column, keys)"
    if s.empty_rows:
        order = "Less(keys, column)"
    return (
        f"new = Shape<start = 1, end = 2>(q) {start} all = Add(past, new) "
        "first = Squeeze(past) end = Squeeze(all) queries = Range(first, end, one) "
        "keys = Range(zero, end, one) column = Unsqueeze(queries, a1) "
        f"keep = {order} drop = Not(keep) mask = Where(keep, zero_number, low)"
    )


def _repeated(how: str, source: str, target: str) -> str:
    wide = {
        "expand": f"Expand({target}_u, repeats)",
        "tile": f"Tile({target}_u, repeats)",
        "concat": f"Concat<axis = 2>({target}_u, {target}_u)",
    }[how]
    return (
        f"{target}_u = Unsqueeze({source}, a2) {target}_w = {wide} "
        f"{target} = Reshape({target}_w, wide)"
    )


def _flat(lines: list[str]) -> list[str]:
    """Nested calls as nodes of their own, which ONNX's text format wants."""
    flat: list[str] = []
    count = 0
    for line in lines:
        for nested in ("IsNaN(weights)",):
            if nested in line:
                count += 1
                flat.append(f"nested{count} = {nested}")
                line = line.replace(nested, f"nested{count}")
        while "Identity(" in line:
            start = line.index("Identity(")
            depth, end = 1, start + len("Identity(")
            while depth:
                depth += {"(": 1, ")": -1}.get(line[end], 0)
                end += 1
            inner = line[start + len("Identity(") : end - 1]
            line = line[:start] + (inner if "(" in inner else f"Identity_({inner})") + line[end:]
        flat.append(line.replace("Identity_(", "Identity("))
    return flat
