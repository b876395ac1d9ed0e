"""The forward sweep: types, symbolic shapes, stale declarations, operators that nobody knows."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from helpers.rewriting import parse_model

from onnxopt.graph.inference import Inference, infer_model
from onnxopt.graph.values import same_shape

SHAPES = {
    "zero": [0],
    "one": [1],
    "two": [2],
    "big": [2**63 - 1],
    "three": [3, 3],
    "reps": [2, 1, 3],
    "pads": [0, 1, 0, 0, 2, 0],
    "minus": [-1, 6],
    "split": [0, 0, 2, -1],
    "i": 0,
    "j": 1,
}


def infer(text: str, weights: Any = None, **options: Any) -> tuple[ir.Model, Inference]:
    model = parse_model(text, weights, **options)
    return model, infer_model(model)


def value_named(model: ir.Model, name: str) -> ir.Value:
    return next(
        value for node in model.graph.all_nodes() for value in node.outputs if value.name == name
    )


@pytest.mark.parametrize(
    ("line", "dims"),
    [
        ("a = Add(x, z)", ("N", "S", 6)),
        ("a = Concat<axis=1>(x, z)", ("N", "S + 1", 6)),
        ("a = Concat<axis=0>(x, x)", ("2*N", "S", 6)),
        ("a = Flatten<axis=1>(x)", ("N", "6*S")),
        ("a = MatMul(x, w)", ("N", "S", 5)),
        ("a = Transpose<perm=[2,0,1]>(x)", (6, "N", "S")),
        ("a = Slice(x, one, big, one)", ("N", "Max(0, S - 1)", 6)),
        ("a = Slice(x, zero, two, two)", ("N", "S", 2)),
        ("a = Slice(x, zero, two, one)", ("N", "Min(2, S)", 6)),
        ("a, b = Split<axis=2>(x, three)", ("N", "S", 3)),
        ("a = Tile(x, reps)", ("2*N", "S", 18)),
        ("a = Pad(x, pads)", ("N", "S + 3", 6)),
        ("s = Shape(x) a = ConstantOfShape(s)", ("N", "S", 6)),
        ("s = Shape(x) a = Expand(k, s)", ("N", "S", 6)),
        ("s = Size(x) q = Unsqueeze(s, zero) a = Reshape(x, q)", ("6*N*S",)),
        ("a = Reshape(x, minus)", ("N*S", 6)),
        ("a = Reshape(x, split)", ("N", "S", 2, 3)),
        ("s = Shape(x) n = Gather(s, i) r = Range(i, n, j) a = Cast<to=1>(r)", ("N",)),
        ("t, a = TopK<axis=2>(x, two)", ("N", "S", 2)),
        ("a = ReduceMean(x, two)", ("N", "S", 1)),
        ("a = Gather<axis=1>(x, one)", ("N", 1, 6)),
    ],
)
def test_dimension_is_an_expression_when_it_depends_on_the_input(
    line: str, dims: tuple[int | str, ...]
) -> None:
    words = re.findall(r"\w+", line)
    weights: dict[str, Any] = {name: np.array(SHAPES[name]) for name in words if name in SHAPES}
    if "MatMul" in words:
        weights["w"] = np.zeros((6, 5), np.float32)
    if "Expand" in words:
        weights["k"] = np.float32(1)
    text = f"g (float[N,S,6] x, float[N,1,6] z) => (float y) {{ {line} y = ReduceSum(a) }}"
    model, inference = infer(text, weights)
    value = value_named(model, "a")
    assert inference.dims(value) == dims
    assert value.shape == ir.Shape(dims)


def test_equal_windows_give_equal_symbols_when_spatial_size_is_dynamic() -> None:
    model, inference = infer(
        """g (float[N,3,H,W] x) => (float[N,3,A,B] y)
        { c = Conv<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(x, w)
          p = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(x)
          s = Conv<pads=[1,1,1,1]>(c, w) a = Add(c, p) y = Add(a, s) }""",
        {"w": np.zeros((3, 3, 3, 3), np.float32)},
    )
    c, p, s, a = (value_named(model, name) for name in "cpsa")
    assert same_shape(c, p)
    assert same_shape(c, s)
    assert same_shape(c, a)
    assert inference.dims(c) is not None


def test_embeddings_of_sliced_positions_keep_the_name_of_the_sequence() -> None:
    model, inference = infer(
        """g (float[N,S,4] x) => (float[N,S,4] y)
        { e = Shape<start=1, end=2>(x) p = Slice(w, zero, e, one) a = Add(x, p) y = Relu(a) }""",
        {"zero": np.array([0]), "one": np.array([1]), "w": np.zeros((1, 512, 4), np.float32)},
    )
    assert inference.dims(value_named(model, "p")) == (1, "Min(512, S)", 4)
    assert inference.dims(value_named(model, "a")) == ("N", "S", 4)


@pytest.mark.parametrize("text", ["?", "-1", "None", "unk"])
def test_placeholders_are_not_equal_when_two_inputs_share_one(text: str) -> None:
    model = parse_model(
        "g (float[N,4] x, float[N,4] z) => (float[K,4] y) { a = Add(x, z) y = Relu(a) }"
    )
    for value in model.graph.inputs:
        value.shape = ir.Shape([text, 4])
    inference = infer_model(model)
    x, z = (inference.dims(value) for value in model.graph.inputs)
    assert x is not None
    assert z is not None
    assert x[0] != z[0]
    assert model.graph.inputs[0].shape == ir.Shape([text, 4])


def test_fresh_symbols_avoid_those_of_the_inputs() -> None:
    model, inference = infer(
        "g (float[unk__0,4] x) => (float[K,4] y) { n = NonZero(x) f = Cast<to=1>(n) y = Neg(f) }"
    )
    dims = inference.dims(value_named(model, "n"))
    assert dims is not None
    assert dims[1] not in ("unk__0", None)


def test_stale_shapes_are_overwritten_but_not_those_of_graph_outputs() -> None:
    model = parse_model("g (float[N,4] x) => (float[7,9] y) { a = Relu(x) y = Neg(a) }")
    value = value_named(model, "a")
    value.shape, value.type = ir.Shape([736, 1]), ir.TensorType(ir.DataType.INT8)
    inference = infer_model(model)
    assert value.shape == ir.Shape(["N", 4])
    assert value.dtype == ir.DataType.FLOAT
    assert model.graph.outputs[0].shape == ir.Shape([7, 9])
    assert inference.dims(model.graph.outputs[0]) == ("N", 4)


def test_shape_of_an_output_is_dropped_when_its_rank_is_impossible() -> None:
    model = parse_model("g (float[N,4] x) => (float[7] y, float[9,4] z) { y = Neg(x) z = Abs(x) }")
    infer_model(model)
    assert [value.shape for value in model.graph.outputs] == [None, ir.Shape([9, 4])]


def test_stale_shape_is_cleared_when_nothing_is_known_instead() -> None:
    model = parse_model(
        "g (float x, int64[K] s) => (float y) { a = Reshape(x, s) b = Relu(a) y = ReduceSum(b) }"
    )
    value = value_named(model, "b")
    value.shape = ir.Shape([736, 1])
    infer_model(model)
    assert value.shape is None
    assert value.dtype == ir.DataType.FLOAT


def test_declaration_is_kept_when_the_operator_is_unknown() -> None:
    model = parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "custom" : 1]>
        g (float[N,4] x) => (float[N,8] y) { a = custom.Op(x) y = Relu(a) }"""
    )
    value = value_named(model, "a")
    value.shape, value.type = ir.Shape(["N", 8]), ir.TensorType(ir.DataType.FLOAT16)
    inference = infer_model(model)
    assert inference.dims(model.graph.outputs[0]) == ("N", 8)
    assert value.dtype == ir.DataType.FLOAT16


def test_type_is_kept_when_shapes_contradict_the_operator() -> None:
    model, inference = infer(
        "g (float[2,3] x, float[4,5] z) => (float[2,5] y) { a = Gemm(x, z) y = Relu(a) }"
    )
    assert value_named(model, "a").dtype == ir.DataType.FLOAT
    dims = inference.dims(value_named(model, "a"))
    assert dims is not None
    assert all(isinstance(dim, str) for dim in dims)


def test_sweep_goes_on_when_inference_of_a_node_fails() -> None:
    model, inference = infer(
        "g (float[2] x) => (float[2] y) { a = Cast<to=99>(x) b = Relu(x) y = Add(b, x) }"
    )
    assert inference.dims(value_named(model, "b")) == (2,)


@pytest.mark.parametrize("opset", [6, 7, 13])
def test_elementwise_shape_at_old_and_new_opsets(opset: int) -> None:
    line = "a = Add<broadcast=1>(x, z)" if opset < 7 else "a = Add(x, z)"
    model, inference = infer(
        f"g (float[N,4] x, float[4] z) => (float[N,4] y) {{ {line} y = Relu(a) }}", opset=opset
    )
    assert inference.dims(value_named(model, "a")) == ("N", 4)


def test_both_spellings_of_the_default_domain_are_understood() -> None:
    model, inference = infer(
        """<ir_version: 8, opset_import: ["ai.onnx" : 17]>
        g (float[N,4] x) => (float[N,4] y) { a = Softmax(x) y = Relu(a) }"""
    )
    assert inference.opset == 17
    assert inference.dims(value_named(model, "a")) == ("N", 4)


def test_second_sweep_finds_the_same() -> None:
    model, first = infer(
        """g (float[N,3,H,W] x) => (float[M,K] y)
        { n = NonZero(x) t = Transpose(n) f = Cast<to=1>(t) y = Relu(f) }"""
    )
    second = infer_model(model)
    assert {v.name: f for v, f in first.facts.items()} == {
        v.name: f for v, f in second.facts.items()
    }


def test_frequencies_of_stft_are_unknown_because_onnx_counts_both_sides() -> None:
    model, inference = infer(
        "g (float[1,128,1] x) => (float[1,15,9,2] y) { a = STFT(x, step, , length) y = Relu(a) }",
        {"step": np.array(8), "length": np.array(16)},
    )
    dims = inference.dims(value_named(model, "a"))
    assert dims is not None
    assert all(isinstance(dim, str) for dim in dims)


def test_empty_dimensions_are_sizes_like_any_other() -> None:
    model, inference = infer(
        "g (float[0,4] x) => (float[0,8] y) { a = Concat<axis=1>(x, x) y = Relu(a) }"
    )
    assert inference.dims(value_named(model, "a")) == (0, 8)


def test_sequence_types_are_kept() -> None:
    model, inference = infer(
        """g (float[N,4] x) => (float[N,4] y)
        { s = SequenceConstruct(x, x) i = Constant<value_int=0>() a = SequenceAt(s, i)
          y = Relu(a) }"""
    )
    assert isinstance(value_named(model, "s").type, ir.SequenceType)
    assert value_named(model, "a").dtype == ir.DataType.FLOAT
    assert inference.dims(value_named(model, "a")) == ("N", 4)


def test_element_type_survives_when_onnx_finds_the_node_invalid() -> None:
    """Range wants scalars; runtimes also take tensors of one element, and old graphs have them."""
    model = parse_model(
        """g (float[N] x, int64[1] limit) => (float[M] y) {
            zero = Constant <value_int = 0> ()
            one = Constant <value_int = 1> ()
            r = Range(zero, limit, one)
            y = Cast <to = 1> (r)
        }"""
    )
    infer_model(model)
    (produced,) = (node.outputs[0] for node in model.graph if node.op_type == "Range")
    assert produced.dtype == ir.DataType.INT64


@pytest.mark.parametrize("names", ["x, z", "z, x"])
def test_concat_takes_no_size_from_a_part_that_may_be_empty(names: str) -> None:
    """Runtimes take `float[0,4]` next to `float[3,5]`, which gives `float[3,5]`."""
    model, inference = infer(
        f"g (float[N,4] x, float[M,D] z) => (float[P,Q] y) "
        f"{{ a = Concat<axis=0>({names}) y = Relu(a) }}"
    )
    dims = inference.dims(value_named(model, "a"))
    assert dims is not None
    assert dims[0] == "M + N"
    assert dims[1] not in (4, "D")


@pytest.mark.parametrize("names", ["w, z", "z, w"])
def test_concat_takes_its_size_from_a_part_that_has_elements(names: str) -> None:
    model, inference = infer(
        f"g (float[M,D] z) => (float[P,Q] y) {{ a = Concat<axis=0>({names}) y = Relu(a) }}",
        {"w": np.ones((3, 4), np.float32)},
    )
    assert inference.dims(value_named(model, "a")) == ("M + 3", 4)


def test_concat_skips_an_empty_constant_of_another_shape() -> None:
    model, inference = infer(
        "g (float[3,4] x) => (float[3,4] y) { a = Concat<axis=0>(e, x) y = Relu(a) }",
        {"e": np.ones((0, 5), np.float32)},
    )
    assert inference.dims(value_named(model, "a")) == (3, 4)


@pytest.mark.parametrize(
    ("allowzero", "expected"), [(0, False), (1, True)], ids=["copies zero", "allowzero"]
)
def test_reshape_takes_no_size_from_another_input_that_may_be_zero(
    allowzero: int, expected: bool
) -> None:
    """Where M is zero, it copies the 2 of the input."""
    model, inference = infer(
        f"""g (float[2,3] x, float[M] z) => (float[P,Q] y)
        {{ m = Shape(z) t = Concat<axis=0>(m, rest) a = Reshape<allowzero={allowzero}>(x, t)
           y = Relu(a) }}""",
        {"rest": np.array([-1 if not allowzero else 3])},
    )
    dims = inference.dims(value_named(model, "a"))
    assert dims is not None
    assert (dims[0] == "M") == expected


@pytest.mark.parametrize(
    ("shape", "target", "expected"),
    [
        ("N,T,4,8", "n, four, t, eight", ("N", 4, "T", 8)),
        ("N,T,8", "t, n, eight", ("T", "N", 8)),
        ("N,T,8", "nt, eight", ("N*T", 8)),
    ],
)
def test_reshape_takes_sizes_that_empty_the_input_when_zero(
    shape: str, target: str, expected: tuple[int | str, ...]
) -> None:
    model, inference = infer(
        f"""g (float[{shape}] x) => (float y)
        <int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] four = {{4}}, int64[1] eight = {{8}}>
        {{ s = Shape(x) n = Gather(s, zero) t = Gather(s, one) nt = Mul(n, t)
           target = Concat<axis=0>({target}) a = Reshape(x, target)
           y = ReduceSum<keepdims=0>(a) }}"""
    )
    assert inference.dims(value_named(model, "a")) == expected
