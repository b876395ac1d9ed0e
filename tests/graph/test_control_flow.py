"""Types and shapes that go into the bodies of If, Loop and Scan, and come out."""

from __future__ import annotations

import onnx_ir as ir
from helpers.rewriting import parse_model

from onnxopt.graph.inference import infer_model


def _dims(model: ir.Model) -> dict[str, tuple[int | str, ...] | None]:
    inference = infer_model(model)
    return {value.name or "": fact.dims for value, fact in inference.facts.items()}


def test_if_keeps_what_both_branches_agree_on() -> None:
    model = parse_model(
        """g (bool c, float[N,4] x) => (float[N,K] y)
        { o = If (c) <then_branch = t () => (float[N,4] a) { a = Relu(x) },
                      else_branch = e () => (float[N,8] b) { b = Concat<axis=1>(x, x) }>
          y = Neg(o) }"""
    )
    dims = _dims(model)
    assert dims["a"] == ("N", 4)
    assert dims["b"] == ("N", 8)
    assert dims["o"] is not None
    assert dims["o"][0] == "N"
    assert dims["o"][1] not in (4, 8)
    assert dims["y"] == dims["o"]


def test_loop_keeps_the_shape_that_its_body_preserves() -> None:
    model = parse_model(
        """g (int64 n, bool c, float[N,4] x) => (float[N,4] y, float[K,N,4] z)
        { y, z = Loop (n, c, x) <body = b (int64 i, bool go, float[P,Q] a)
            => (bool again, float[P,Q] d, float[P,Q] e)
            { again = Identity(go) d = Relu(a) e = Neg(d) }> }"""
    )
    dims = _dims(model)
    assert dims["a"] == ("N", 4)
    assert dims["y"] == ("N", 4)
    assert dims["z"] is not None
    assert dims["z"][1:] == ("N", 4)
    assert model.graph[0].attributes["body"].as_graph().inputs[2].shape == ir.Shape(["N", 4])


def test_loop_forgets_the_shape_that_its_body_changes() -> None:
    model = parse_model(
        """g (int64 n, bool c, float[2,4] x) => (float[K,4] y)
        { y = Loop (n, c, x) <body = b (int64 i, bool go, float[2,4] a)
            => (bool again, float[L,4] d)
            { again = Identity(go) s = Shape(a) r = Reshape(a, s) d = Concat<axis=0>(r, r) }> }"""
    )
    inference = infer_model(model)
    body = model.graph[0].attributes["body"].as_graph()
    assert body.inputs[2].shape is None
    assert body.inputs[2].dtype == ir.DataType.FLOAT
    shape = next(node for node in body if node.op_type == "Shape")
    assert shape.outputs[0] not in inference.constants
    assert inference.dims(model.graph[0].outputs[0]) is None


def test_result_of_a_body_keeps_its_declared_shape_when_none_is_known() -> None:
    """ONNX Runtime gives a loop without iterations a result of that shape."""
    model = parse_model(
        """g (int64 n, bool c, float[1] x) => (float[1] y, float[K,1] z)
        { y, z = Loop (n, c, x) <body = b (int64 i, bool go, float[1] a)
            => (bool again, float[1] d, float[1] e)
            { again = Identity(go) o = Constant<value_ints=[0]>() f = Reshape(i, o)
              u = Constant<value_ints=[-1]>() g = Reshape(i, u)
              s = Slice(a, o, g) d = Add(a, s) e = Identity(d) }> }"""
    )
    infer_model(model)
    body = model.graph[0].attributes["body"].as_graph()
    assert body.outputs[2].shape == ir.Shape([1])


def test_scan_slices_its_inputs_and_stacks_its_outputs() -> None:
    model = parse_model(
        """g (float[B] h, float[T,B] x) => (float[B] y, float[T,B,1] z)
        { y, z = Scan <num_scan_inputs = 1, body = b (float[P] s, float[Q] e)
            => (float[P] t, float[P,1] o)
            { t = Add(s, e) i = Constant<value_ints=[-1]>() o = Unsqueeze(t, i) }> (h, x) }"""
    )
    dims = _dims(model)
    assert dims["s"] == ("B",)
    assert dims["e"] == ("B",)
    assert dims["y"] == ("B",)
    assert dims["z"] == ("T", "B", 1)


def test_inner_graph_sees_outer_values() -> None:
    model = parse_model(
        """g (bool c, float[N,4] x) => (float[N,4] y)
        { r = Relu(x)
          y = If (c) <then_branch = t () => (float[N,4] a)
            { a = If (c) <then_branch = t2 () => (float[N,4] p) { p = Neg(r) },
                          else_branch = e2 () => (float[N,4] q) { q = Abs(r) }> },
            else_branch = e () => (float[N,4] b) { b = Identity(r) }> }"""
    )
    dims = _dims(model)
    assert dims["p"] == dims["q"] == dims["a"] == dims["y"] == ("N", 4)


def test_loop_forgets_the_element_shape_of_a_sequence_that_its_body_replaces() -> None:
    model = parse_model(
        """g (int64 n, bool c, float[2] x, float[3] z) => (int64[K,1] sizes)
        <int64 zero = {0}>
        { first = SequenceConstruct(x)
          last, sizes = Loop (n, c, first) <body = b (int64 i, bool go, seq(float[P]) s)
            => (bool again, seq(float[Q]) t, int64[1] size)
            { again = Identity(go) e = SequenceAt(s, zero) size = Shape(e)
              t = SequenceConstruct(z) }> }""",
        opset=17,
    )
    inference = infer_model(model)
    shape = next(node for node in model.graph.all_nodes() if node.op_type == "Shape")
    assert shape.outputs[0] not in inference.constants
    assert shape.inputs[0] is not None
    assert shape.inputs[0].dtype == ir.DataType.FLOAT


def test_loop_counter_has_one_element_when_the_body_says_so() -> None:
    model = parse_model(
        """g (int64 n, bool c, int64[2] x) => (int64[K,3] y)
        { y = Loop (n, c) <body = b (int64[1] i, bool go) => (bool again, int64[3] d)
            { again = Identity(go) d = Concat<axis=0>(x, i) }> }"""
    )
    dims = _dims(model)
    assert dims["i"] == (1,)
    assert dims["go"] == ()
