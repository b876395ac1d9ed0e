"""FuseRotaryEmbedding: computed and constant angles, parts of a head, and refusals."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers.branches import branches_of, in_branches
from helpers.rewriting import assert_refuses, assert_rewrites, parse_model

from onnxopt.passes.cleanup.constants import FoldConstants
from onnxopt.passes.fusion.attention.rotary import FuseRotaryEmbedding

SIZES = ({"N": 1, "S": 1}, {"N": 1, "S": 5}, {"N": 3, "S": 4})
HALVES = {
    "slices": "x1 = Slice({x}, zero, middle, last) x2 = Slice({x}, middle, end, last)",
    "split": "x1, x2 = Split<axis = 3, num_outputs = 2>({x})",
}
NEGATED = {"neg": "n = Neg(x2)", "mul": "n = Mul(minus, x2)"}
SUMS = {
    "usual": "a = Mul({x}, c) b = Mul(t, s) r = Add(a, b)",
    "swapped": "a = Mul(c, {x}) b = Mul(s, t) r = Add(b, a)",
}
ANGLES = {
    "computed": "p = Cast<to = 1>(places) u = Unsqueeze(p, a2) f = Mul(u, rates) "
    "e = Concat<axis = -1>(f, f) co = Cos(e) si = Sin(e) "
    "c = Unsqueeze(co, a1) s = Unsqueeze(si, a1)",
    "scaled": "p = Cast<to = 1>(places) u = Unsqueeze(p, a2) f = Mul(u, rates) "
    "e = Concat<axis = -1>(f, f) w = Unsqueeze(e, a1) co = Cos(w) si = Sin(w) "
    "c = Mul(co, two) s = Mul(two, si)",
}


def rotary_model(
    *,
    halves: str = "slices",
    negated: str = "neg",
    sums: str = "usual",
    angles: str = "computed",
    kept: int = 0,
    batch: str = "N",
    tail: str = "",
    third: bool = False,
) -> ir.Model:
    """`[N, 2, S, 8 + kept]` heads out of merged ones, of which 8 numbers are rotated.

    With `third`, heads are the third axis instead of the second.
    """
    x = "xr" if kept else "xh"
    heads = "Identity(split_x)" if third else "Transpose<perm = [0, 2, 1, 3]>(split_x)"
    body = [f"split_x = Reshape(x, split) xh = {heads}"]
    if kept:
        body.append("xr = Slice(xh, zero, eight, last) xk = Slice(xh, eight, end, last)")
    angles = ANGLES.get(angles, angles)
    body += [
        angles.replace("a1", "a2") if third else angles,
        HALVES[halves].format(x=x),
        NEGATED[negated],
    ]
    body += ["t = Concat<axis = -1>(n, x1)", SUMS[sums].format(x=x)]
    body.append("z = Concat<axis = -1>(r, xk)" if kept else "z = Identity(r)")
    size, text = 8 + kept, " ".join(body) + tail
    constants = {
        "split": [0, 0, 2, size], "zero": [0], "middle": [4], "eight": [8], "end": [2**63 - 1],
        "last": [3], "a1": [1], "a2": [2],
    }  # fmt: skip
    words = set(text.replace("(", " ").replace(")", " ").replace(",", " ").split())
    weights = {name: np.array(item) for name, item in constants.items() if name in words}
    numbers = {"minus": -1.0, "two": 2.0, "rates": 10.0 ** -np.arange(4)}
    weights |= {name: np.array(item, np.float32) for name, item in numbers.items() if name in words}
    if "table_c" in words:
        half = np.random.default_rng(0).standard_normal((2, 1, 1, 5, 4)).astype(np.float32)
        weights |= dict(zip(("table_c", "table_s"), np.concatenate([half, half], -1), strict=True))
    places = "" if "table_c" in words else f", int64[{batch},S] places"
    sequence = "5" if "table_c" in words else "S"
    axes = f"{sequence},2" if third else f"2,{sequence}"
    model = parse_model(
        f"g (float[N,{sequence},{2 * size}] x{places}) => (float[N,{axes},{size}] z) {{ {text} }}",
        weights,
    )
    FoldConstants()(model)
    return model


def fused(model: ir.Model) -> ir.Node:
    """One RotaryEmbedding computes the same."""
    assert_rewrites(
        FuseRotaryEmbedding(), model, expect=None, rewrites=1, rtol=1e-5, atol=1e-5, sizes=SIZES,
        check=False,
    )  # fmt: skip
    (rotary,) = (node for node in model.graph if node.op_type == "RotaryEmbedding")
    assert "Neg" not in [node.op_type for node in model.graph]
    return rotary


@pytest.mark.parametrize("halves", HALVES)
@pytest.mark.parametrize("negated", NEGATED)
@pytest.mark.parametrize("sums", SUMS)
def test_rotation_is_fused_when_spelled(halves: str, negated: str, sums: str) -> None:
    fused(rotary_model(halves=halves, negated=negated, sums=sums))


def test_factor_of_the_angles_is_kept() -> None:
    fused(rotary_model(angles="scaled"))


def test_part_of_a_head_is_rotated_when_the_rest_is_concatenated() -> None:
    rotary = fused(rotary_model(kept=6))
    assert rotary.attributes["rotary_embedding_dim"].as_int() == 8


def test_shared_angles_start_at_the_first_row() -> None:
    rotary = fused(rotary_model(batch="1"))
    rows = rotary.inputs[1]
    assert rows is not None
    assert rows.const_value is not None
    assert rows.const_value.numpy().tolist() == [0]


def test_constant_table_is_halved() -> None:
    fused(rotary_model(angles="c = Identity(table_c) s = Identity(table_s)"))


def test_halves_that_differ_are_refused() -> None:
    angles = ANGLES["computed"].replace("Concat<axis = -1>(f, f)", "Concat<axis = -1>(f, g)")
    model = rotary_model(angles=angles.replace("e =", "g = Mul(f, f) e ="))
    assert_refuses(FuseRotaryEmbedding(), model, "halves of cos or sin are not provably equal")


def test_interleaved_pairs_stay_silently() -> None:
    model = rotary_model(halves="slices")
    for node in model.graph:
        if node.op_type == "Concat" and node.outputs[0].name == "t":
            node.replace_input_with(1, node.inputs[0])
    result = FuseRotaryEmbedding()(model)
    assert not result.modified
    assert not result.refusals


@pytest.mark.parametrize("angles", ["computed", "scaled"])
@pytest.mark.parametrize("kept", [0, 8])
def test_heads_may_be_the_third_axis(angles: str, kept: int) -> None:
    model = rotary_model(angles=angles, kept=kept, third=True)
    rotary = fused(model)
    assert "Transpose" not in {node.op_type for node in model.graph}
    assert rotary.attributes["num_heads"].as_int() == 2


def test_angles_by_head_are_refused_when_heads_are_the_third_axis() -> None:
    model = rotary_model(angles="c = Identity(table_c) s = Identity(table_s)", third=True)
    assert_refuses(FuseRotaryEmbedding(), model, "angles are not those of the tokens")


@pytest.mark.parametrize("kept", [0, 4])
def test_subgraph_is_rewritten(kept: int) -> None:
    model = in_branches(rotary_model(kept=kept))
    assert_rewrites(
        FuseRotaryEmbedding(), model, expect=["If"], rewrites=2, rtol=1e-5, atol=1e-5, sizes=SIZES,
        check=False,
    )  # fmt: skip
    for branch in branches_of(model):
        assert "RotaryEmbedding" in [node.op_type for node in branch]
