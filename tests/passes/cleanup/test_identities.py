"""`RemoveIdentities`: each operator that returns its input, and what keeps it there."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common
import pytest
from helpers.rewriting import assert_refuses, assert_rewrites, op_types, parse_model

from onnxopt.passes.cleanup.identities import RemoveIdentities


def _one(body: str, *, types: str = "float[N,3] x", out: str = "float[N,3] y") -> str:
    return f"g ({types}) => ({out}) {{ {body} }}"


@pytest.mark.parametrize(
    "body",
    [
        "a = Relu(x) b = Identity(a) y = Neg(b)",
        "a = Relu(x) b = Dropout(a) y = Neg(b)",
        "a = Relu(x) b = Cast<to=1>(a) y = Neg(b)",
        "a = Relu(x) b = CastLike(a, x) y = Neg(b)",
        "a = Relu(x) b = Concat<axis=0>(a) y = Neg(b)",
        "a = Relu(x) b = Sum(a) y = Neg(b)",
        "a = Relu(x) b = Max(a) y = Neg(b)",
        "a = Relu(x) b = Min(a) y = Neg(b)",
        "a = Relu(x) b = Mean(a) y = Neg(b)",
        "a = Relu(x) b = Transpose<perm=[0,1]>(a) y = Neg(b)",
        "a = Relu(x) b = Flatten<axis=1>(a) y = Neg(b)",
        "a = Relu(x) b = Relu(a) y = Neg(b)",
        "a = Relu(x) b = Abs(a) y = Neg(b)",
        "a = Relu(x) b = SequenceConstruct(x, a) i = Constant<value=int64 {-1}>()"
        " c = SequenceAt(b, i) y = Neg(c)",
    ],
)
def test_node_goes_when_it_returns_its_input(body: str) -> None:
    text = _one(body).replace("=> (float[N,3] y)", "=> (float[N,3] y) <float[N,3] a>")
    model = parse_model(text)
    assert_rewrites(RemoveIdentities(), model, expect=None, rewrites=1, rtol=0, atol=0)
    assert [t for t in op_types(model) if t != "Constant"] == ["Relu", "Neg"]


@pytest.mark.parametrize("op", ["Neg", "Abs", "Ceil", "Floor", "Round"])
def test_second_one_goes_when_twice_in_a_row(op: str) -> None:
    model = parse_model(
        f"g (float[N] x) => (float[N] y) <float[N] a> {{ a = {op}(x) y = {op}(a) }}"
    )
    expect = ["Identity"] if op == "Neg" else [op]
    assert_rewrites(RemoveIdentities(), model, expect=expect, rewrites=1, rtol=0, atol=0)


def test_pair_goes_when_booleans_are_negated_twice() -> None:
    model = parse_model(
        "g (bool[N] x, bool[N] z) => (bool[N] y) { a = Not(x) b = Not(a) y = And(b, z) }"
    )
    assert_rewrites(RemoveIdentities(), model, expect=["And"], rewrites=1, rtol=0, atol=0)


@pytest.mark.parametrize("source", ["Sigmoid", "Softplus", "Exp", "HardSigmoid", "Softmax"])
def test_relu_goes_when_the_range_is_known_through_a_pool(source: str) -> None:
    model = parse_model(
        f"""g (float[N,3,4,4] x) => (float[N,3,2,2] y) <float[N,3,4,4] a, float[N,3,2,2] b>
        {{ a = {source}(x) b = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a) y = Relu(b) }}"""
    )
    expect = [source, "MaxPool"]
    assert_rewrites(RemoveIdentities(), model, expect=expect, rewrites=1, rtol=0, atol=0)


def test_relu_stays_when_the_range_reaches_below_zero() -> None:
    model = parse_model("g (float[N] x) => (float[N] y) <float[N] a> { a = Tanh(x) y = Relu(a) }")
    assert_rewrites(RemoveIdentities(), model, expect=None, rewrites=0, rtol=0, atol=0)


def test_round_goes_when_the_value_comes_from_integers() -> None:
    model = parse_model("g (int64[N] x) => (float[N] y) { a = Cast<to=1>(x) y = Floor(a) }")
    assert_rewrites(RemoveIdentities(), model, expect=["Cast"], rewrites=1, rtol=0, atol=0)


@pytest.mark.parametrize("opset", [7, 10, 12, 13, 21])
def test_dropout_goes_when_in_inference_in_every_opset(opset: int) -> None:
    model = parse_model(
        "g (float[N] x) => (float[N] y) { a, mask = Dropout(x) y = Relu(a) }", opset=opset
    )
    assert_rewrites(RemoveIdentities(), model, expect=["Relu"], rewrites=1, rtol=0, atol=0)


def test_dropout_stays_when_its_mask_is_used() -> None:
    model = parse_model(
        "g (float[N] x) => (float[N] y, bool[N] mask) { a, mask = Dropout(x) y = Relu(a) }"
    )
    assert_refuses(RemoveIdentities(), model, "mask")


@pytest.mark.parametrize("mode", ["bool training", ""])
def test_dropout_stays_when_it_trains(mode: str) -> None:
    inputs = f"float[N] x, {mode}" if mode else "float[N] x"
    constant = "" if mode else "training = Constant<value=bool {1}>()"
    model = parse_model(
        f"g ({inputs}) => (float[N] y) {{ {constant} a = Dropout(x, , training) y = Relu(a) }}"
    )
    assert_refuses(RemoveIdentities(), model, "training mode")


def test_dropout_stays_when_an_old_opset_trains_by_default() -> None:
    model = parse_model("g (float[N] x) => (float[N] y) { a = Dropout(x) y = Relu(a) }", opset=6)
    assert_refuses(RemoveIdentities(), model, "is_test")


def test_unsqueeze_goes_when_its_axes_are_empty() -> None:
    axes = np.zeros(0, np.int64)
    model = parse_model(
        "g (float[N] x) => (float[N] y) { a = Unsqueeze(x, axes) y = Relu(a) }", {"axes": axes}
    )
    assert_rewrites(RemoveIdentities(), model, expect=["Relu"], rewrites=1, rtol=0, atol=0)


def test_unsqueeze_goes_when_its_attribute_is_empty() -> None:
    model = parse_model(
        "g (float[N] x) => (float[N] y) { a = Unsqueeze<axes=[0]>(x) y = Relu(a) }", opset=11
    )
    model.graph[0].attributes["axes"] = ir.AttrInt64s("axes", [])
    assert_rewrites(RemoveIdentities(), model, expect=["Relu"], rewrites=1, rtol=0, atol=0)


@pytest.mark.parametrize(("shape", "expect"), [("3,2", ["Relu"]), ("3,1", ["Squeeze", "Relu"])])
def test_squeeze_goes_only_when_there_is_nothing_to_squeeze(shape: str, expect: list[str]) -> None:
    out = "3,2" if shape == "3,2" else "3"
    model = parse_model(
        f"g (float[{shape}] x) => (float[{out}] y) {{ a = Squeeze(x) y = Relu(a) }}"
    )
    assert_rewrites(
        RemoveIdentities(), model, expect=expect, rewrites=2 - len(expect), rtol=0, atol=0
    )


def test_cast_stays_when_the_type_changes_or_is_unknown() -> None:
    model = parse_model("g (float16[N] x) => (float[N] y) { y = Cast<to=1>(x) }")
    assert_rewrites(RemoveIdentities(), model, expect=["Cast"], rewrites=0, rtol=0, atol=0)


def test_identity_stays_when_it_joins_an_input_to_an_output() -> None:
    model = parse_model("g (float[N] x) => (float[N] y) { y = Identity(x) }")
    assert_refuses(RemoveIdentities(), model, "directly to a graph output")


def test_both_outputs_keep_their_names_when_an_identity_lies_between_them() -> None:
    model = parse_model(
        "g (float[N] x) => (float[N] y, float[N] z) { y = Relu(x) z = Identity(y) }"
    )
    assert_refuses(RemoveIdentities(), model, "directly to a graph output")


def test_initializer_is_shared_when_identities_copy_it() -> None:
    model = parse_model(
        """g (float[N] x) => (float[N] y) <float w = {2.0}>
        { u = Identity(w) v = Identity(w) a = Mul(x, u) y = Add(a, v) }"""
    )
    assert_rewrites(RemoveIdentities(), model, expect=["Mul", "Add"], rewrites=2, rtol=0, atol=0)
    assert list(model.graph.initializers) == ["w"]


def test_subgraph_is_cleaned_when_identities_lie_inside() -> None:
    model = parse_model(
        """g (float[N] x, bool c) => (float[N] y) {
            y = If (c) <
                then_branch = t () => (float[N] p) { u = Identity(x) p = Relu(u) },
                else_branch = e () => (float[N] q) { q = Identity(x) }
            >
        }"""
    )
    assert_rewrites(RemoveIdentities(), model, expect=["If"], rewrites=1, rtol=0, atol=0)


def test_chain_goes_when_identities_follow_each_other_to_an_output() -> None:
    model = parse_model(
        """g (float[N] x) => (float[N] y)
        { a = Relu(x) b = Identity(a) c = Dropout(b) y = Identity(c) }"""
    )
    assert_rewrites(RemoveIdentities(), model, expect=["Relu"], rewrites=3, rtol=0, atol=0)
