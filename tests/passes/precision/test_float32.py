"""Raising float16 to float32: the same numbers, the same inputs and outputs."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from helpers.rewriting import op_types, parse_model, random_feeds, run

from onnxopt.passes.precision.float32 import ConvertToFloat32

BRANCHES = """g (float16[N, 4] x, bool c) => (float16[N, 4] y, float[N, 4] z) {
    m = MatMul(x, w)
    s = Cast <to = 1> (m)
    h = Cast <to = 10> (s)
    y = If (c) <then_branch = t () => (float16[N, 4] p) { p = Add(h, w0) },
                else_branch = e () => (float16[N, 4] q) {
                    k = Constant <value = float16[1] {2}> () q = Mul(x, k) }>
    z = Neg(s)
}"""


def model() -> ir.Model:
    rng = np.random.default_rng(0)
    weights = {"w": (4, 4), "w0": (4,)}
    arrays = {n: rng.standard_normal(shape).astype(np.float16) for n, shape in weights.items()}
    return parse_model(BRANCHES, arrays)


def test_results_agree_and_ends_keep_their_types() -> None:
    raised = model()
    found = ConvertToFloat32()(raised)
    assert found.modified
    assert [v.dtype for v in raised.graph.inputs] == [ir.DataType.FLOAT16, ir.DataType.BOOL]
    assert [v.dtype for v in raised.graph.outputs] == [ir.DataType.FLOAT16, ir.DataType.FLOAT]
    assert all(v.dtype == ir.DataType.FLOAT for v in raised.graph.initializers.values())
    for condition in (True, False):
        feeds = random_feeds(model(), {"N": 3}) | {"c": np.array(condition)}
        for one, other in zip(run(raised, feeds), run(model(), feeds), strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_allclose(one, other, rtol=2e-3, atol=2e-3)


def test_a_second_run_and_a_float32_model_change_nothing() -> None:
    raised = model()
    ConvertToFloat32()(raised)
    assert not ConvertToFloat32()(raised).modified
    plain = parse_model("g (float[N] x) => (float[N] y) { y = Neg(x) }")
    assert not ConvertToFloat32()(plain).modified
    assert op_types(plain) == ["Neg"]


def test_an_input_that_is_an_output_keeps_its_type() -> None:
    passing = parse_model(
        "g (float16[N] x) => (float16[N] y, float16[N] n) { y = Identity(x) n = Neg(x) }"
    )
    original = passing.clone()
    ConvertToFloat32()(passing)
    feeds = random_feeds(original, {"N": 3})
    for one, other in zip(run(passing, feeds), run(original, feeds), strict=True):
        np.testing.assert_array_equal(one, other)


def test_sequences_of_float16_are_refused() -> None:
    split = parse_model(
        "g (float16[4] x) => (float16[2] y) "
        "{ i = Constant <value_int = 0> () s = SplitToSequence(x, two) "
        "y = SequenceAt(s, i) }",
        {"two": np.array(2)},
    )
    for node in split.graph:
        if node.op_type == "SplitToSequence":
            node.outputs[0].type = ir.SequenceType(ir.TensorType(ir.DataType.FLOAT16))
    found = ConvertToFloat32()(split)
    assert not found.modified
    assert "Sequence" in found.refusals[0].reason
