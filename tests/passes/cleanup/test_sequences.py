"""UnpackSequences: Split with the same parts, Gather of single positions, and what stays."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from helpers.rewriting import assert_refuses, assert_rewrites, op_types, parse_model

from onnxopt.passes.cleanup.sequences import UnpackSequences

_PLACES = {"first": np.array(0, np.int64), "last": np.array(-1, np.int64)}


def _model(split: str, axis: int, sizes: np.ndarray, opset: int = 18) -> ir.Model:
    return parse_model(
        f"""g (float[N,2,7] x) => (float[N,a,b] y, float[N,c,d] z) {{
            s = {split}(x, sizes) a0 = SequenceAt(s, first) y = Relu(a0)
            b0 = SequenceAt(s, last) z = Neg(b0)
        }}""".replace("(x,", f"<axis={axis}>(x,"),
        _PLACES | {"sizes": sizes},
        opset=opset,
    )


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize(("axis", "sizes"), [(2, [3, 4]), (-1, [2, 4, 1]), (2, 3), (-1, 7), (1, 1)])
def test_parts_are_those_of_the_sequence(axis: int, sizes: list[int] | int, opset: int) -> None:
    model = _model("SplitToSequence", axis, np.array(sizes, np.int64), opset)
    assert_rewrites(
        UnpackSequences(), model, expect=["Split", "Relu", "Neg"], rewrites=1, rtol=0, atol=0
    )


@pytest.mark.parametrize(("axis", "keepdims"), [(1, 0), (-1, 1), (0, 0), (0, 1)])
def test_single_positions_are_gathered(axis: int, keepdims: int) -> None:
    rank = 3 if keepdims else 2
    shape = ",".join("abc"[:rank])
    model = parse_model(
        f"""g (float[N,2,7] x) => (float[{shape}] y, float[{shape}] z) {{
            s = SplitToSequence<axis={axis}, keepdims={keepdims}>(x)
            y = SequenceAt(s, first) b = SequenceAt(s, last) z = Neg(b)
        }}""",
        _PLACES,
    )
    assert_rewrites(
        UnpackSequences(), model, expect=["Gather", "Gather", "Neg"], rewrites=1, rtol=0, atol=0
    )
    assert [value.name for value in model.graph.outputs] == ["y", "z"]


def test_branches_are_rewritten_among_themselves() -> None:
    model = parse_model(
        """
        g (float[N,6] x, bool c) => (float[N,k] y) {
            y = If (c) <
                then_branch = t () => (float[N,k] yt) {
                    i = Constant<value_int=1>() n = Constant<value_ints=[2,4]>()
                    s = SplitToSequence<axis=1>(x, n) yt = SequenceAt(s, i)
                },
                else_branch = e () => (float[N,k] ye) { ye = Neg(x) }
            >
        }
        """
    )
    assert_rewrites(UnpackSequences(), model, expect=["If"], rewrites=1, rtol=0, atol=0)
    branch = model.graph.node(0).attributes["then_branch"].as_graph()
    assert [node.op_type for node in branch] == ["Split"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("(float[N,6] x, int64 i) => (float[N,k] y)"
         " { s = SplitToSequence<axis=1>(x, n) y = SequenceAt(s, i) }", "is computed"),
        ("(float[N,6] x) => (float[N,k] y, int64 l)"
         " { s = SplitToSequence<axis=1>(x, n) y = SequenceAt(s, o) l = SequenceLength(s) }",
         "something else"),
        ("(float[N,6] x) => (float[N,k] y)"
         " { s = SplitToSequence<axis=0>(x, t) y = SequenceAt(s, o) }", "sizes"),
        ("(float[N,6] x, int64[2] m) => (float[N,k] y)"
         " { s = SplitToSequence<axis=1>(x, m) y = SequenceAt(s, o) }", "sizes"),
    ],
)  # fmt: skip
def test_what_is_not_constant_stays(text: str, reason: str) -> None:
    numbers = {"n": np.array([2, 4], np.int64), "o": np.array(1, np.int64)}
    numbers["t"] = np.array(2, np.int64)
    used = {name: array for name, array in numbers.items() if f", {name})" in text}
    assert_refuses(UnpackSequences(), parse_model(f"g {text}", used), reason)


def test_places_outside_stay_and_fail_as_before() -> None:
    model = parse_model(
        "g (float[N,6] x) => (float[N,k] y)"
        " { s = SplitToSequence<axis=1>(x, n) y = SequenceAt(s, o) }",
        {"n": np.array([2, 4], np.int64), "o": np.array(2, np.int64)},
    )
    result = UnpackSequences()(model)
    assert not result.modified
    assert "outside of the 2 parts" in result.refusals[0].reason
    assert op_types(model) == ["SplitToSequence", "SequenceAt"]


@pytest.mark.parametrize("again", [0, -2])
def test_one_part_that_is_two_outputs_keeps_both_names(again: int) -> None:
    model = parse_model(
        """g (float[N,7] x) => (float[N,a] y, float[N,a] z) {
            s = SplitToSequence<axis=1>(x, n) y = SequenceAt(s, first) z = SequenceAt(s, again)
        }""",
        {"n": np.array([3, 4], np.int64), "first": _PLACES["first"], "again": np.array(again)},
    )
    assert_rewrites(
        UnpackSequences(), model, expect=["Split", "Identity"], rewrites=1, rtol=0, atol=0
    )
    assert [value.name for value in model.graph.outputs] == ["y", "z"]


@pytest.mark.parametrize(
    ("shape", "split", "numbers", "reason"),
    [
        ("3000000000", "SplitToSequence(x, n)", {"n": 1}, "it has 3000000000 parts"),
        ("5000", "SplitToSequence(x, n)", {"n": [1] * 5000}, "it has 5000 parts"),
        ("6", "SplitToSequence(x, n)", {"n": [7, -1]}, "negative size"),
        ("6", "SplitToSequence(x)", {"o": 6}, "outside of the 6 parts"),
        ("6", "SplitToSequence(x)", {"o": -7}, "outside of the 6 parts"),
        ("6", "SplitToSequence(x)", {"o": []}, "is computed"),
        ("4,6", "SplitToSequence<axis=2>(x, n)", {"n": [3, 3]}, "no axis 2"),
        ("4,6", "SplitToSequence<axis=-3>(x)", {}, "no axis -3"),
        ("", "SplitToSequence(x)", {}, "no axis 0"),
    ],
)
def test_what_is_not_valid_or_huge_stays(
    shape: str, split: str, numbers: dict[str, Any], reason: str
) -> None:
    arrays = {name: np.array(n, np.int64) for name, n in ({"o": 0} | numbers).items()}
    x = f"float[{shape}]" if shape else "float"
    model = parse_model(f"g ({x} x) => (float y) {{ s = {split} y = SequenceAt(s, o) }}", arrays)
    model.graph.outputs[0].shape = None
    result = UnpackSequences()(model)
    assert not result.modified
    assert reason in result.refusals[0].reason
