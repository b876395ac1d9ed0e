"""FoldConstants: what is folded, what is refused, and what the graph keeps."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers.rewriting import assert_refuses, assert_rewrites, op_types, parse_model

from onnxopt.core.errors import InvalidInputError
from onnxopt.passes.cleanup.constants import FoldConstants

W = np.arange(12, dtype=np.float32).reshape(3, 4)


def test_chain_is_one_initializer_when_all_inputs_are_constant() -> None:
    model = parse_model(
        """g (float[N,3] x) => (float[N,3] y)
        { c = Constant<value_float=2.0>() a = Mul(w, c) s = ReduceSum<keepdims=0>(a, axes)
          y = Add(x, s) }""",
        {"w": W, "axes": np.array([1])},
    )
    result = assert_rewrites(FoldConstants(), model, expect=["Add"], rewrites=3, rtol=0, atol=0)
    assert dict(result.rewrites) == {"fold": 2, "constant-to-initializer": 1}
    assert list(model.graph.initializers) == ["s"]


@pytest.mark.parametrize(
    ("attribute", "kind"),
    [
        ("value_float=1.5", "float"),
        ("value_floats=[1.5]", "float[1]"),
        ("value_int=3", "int64"),
        ("value_ints=[3]", "int64[1]"),
        ("value=float[1] {2.5}", "float[1]"),
    ],
)
def test_constant_node_becomes_initializer_whatever_its_attribute(
    attribute: str, kind: str
) -> None:
    dtype = kind.split("[")[0]
    model = parse_model(
        f"""g ({dtype}[N] x) => ({dtype}[N] y)
        {{ c = Constant<{attribute}>() y = Add(x, c) }}"""
    )
    rewrites = {"constant-to-initializer": 1}
    assert_rewrites(FoldConstants(), model, expect=["Add"], rewrites=rewrites, rtol=0, atol=0)


def test_string_constant_becomes_initializer() -> None:
    model = parse_model(
        """g (string[N] x) => (bool[N] y)
        { c = Constant<value_strings=["a"]>() y = Equal(x, c) }""",
        opset=19,
    )
    FoldConstants()(model)
    assert op_types(model) == ["Equal"]
    assert model.graph.initializers["c"].dtype == ir.DataType.STRING


def test_graph_output_keeps_its_name_when_it_is_constant() -> None:
    model = parse_model(
        "g (float[N,3,4] x) => (float[N,3,4] y, float[3,4] z) { z = Neg(w) y = Add(x, z) }",
        {"w": W},
    )
    assert_rewrites(FoldConstants(), model, expect=["Identity", "Add"], rewrites=1, rtol=0, atol=0)


def test_constant_node_stays_when_it_gives_a_graph_output() -> None:
    model = parse_model(
        "g (float[N] x) => (float[N] y, float z) { z = Constant<value_float=2.0>() y = Add(x, z) }"
    )
    assert_rewrites(FoldConstants(), model, expect=["Constant", "Add"], rewrites=0, rtol=0, atol=0)


def test_shared_initializer_stays_when_another_node_reads_it() -> None:
    model = parse_model(
        """g (float[N,4] x) => (float[N,3] y, float[N,4] z)
        { t = Transpose(w) y = MatMul(x, t) z = MatMul(y, w) }""",
        {"w": W},
    )
    assert_rewrites(
        FoldConstants(), model, expect=["MatMul", "MatMul"], rewrites=1, rtol=1e-6, atol=1e-6
    )
    assert sorted(model.graph.initializers) == ["t", "w"]


def test_fold_is_refused_when_a_shared_weight_would_be_stored_twice() -> None:
    weight = np.zeros((600, 1000), np.float32)
    text = """g (int64[N] i) => (float[N,600] y)
        { e = Gather(w, i) t = Transpose(w) y = MatMul(e, t) }"""
    assert_refuses(FoldConstants(), parse_model(text, {"w": weight}), "2400000 bytes larger")
    model = parse_model(text, {"w": weight})
    limited = FoldConstants(max_growth=3_000_000)
    assert_rewrites(limited, model, expect=["Gather", "MatMul"], rewrites=1, rtol=0, atol=0)


def test_weight_is_folded_whatever_its_size_when_nothing_else_reads_it() -> None:
    model = parse_model(
        "g (float[N,1000] x) => (float[N,600] y) { t = Transpose(w) y = MatMul(x, t) }",
        {"w": np.ones((600, 1000), np.float32)},
    )
    assert_rewrites(FoldConstants(), model, expect=["MatMul"], rewrites=1, rtol=1e-5, atol=1e-5)
    assert list(model.graph.initializers) == ["t"]


def test_fold_is_refused_when_a_small_constant_is_expanded() -> None:
    model = parse_model(
        """g (float[1000,1000] x) => (float[1000,1000] y)
        { e = ConstantOfShape(s) y = Add(x, e) }""",
        {"s": np.array([1000, 1000])},
    )
    assert_refuses(FoldConstants(), model, "ConstantOfShape would make the file 3999984 bytes")


def test_nothing_is_computed_when_an_intermediate_would_be_huge() -> None:
    model = parse_model(
        """g (float[N] x) => (float[N] y)
        { e = ConstantOfShape(s) m = ReduceSum<keepdims=0>(e) y = Add(x, m) }""",
        {"s": np.array([100_000, 100_000])},
    )
    assert_refuses(FoldConstants(), model, "ConstantOfShape would make 38147 MiB")


def test_second_run_spends_nothing_when_the_allowance_is_used_up() -> None:
    names = "abcdefghij"
    lines = " ".join(f"{n} = Mul(w_{n}, k)" for n in names)
    model = parse_model(
        f"""g (float[200,1000] x) => (float[200,1000] y)
        {{ {lines} y = Sum(x, {", ".join(names)}) }}""",
        {"k": np.ones((200, 1000), np.float32)}
        | {f"w_{n}": np.full(1, i, np.float32) for i, n in enumerate(names)},
    )
    pass_ = FoldConstants(max_growth=800_000)
    result = assert_rewrites(pass_, model, expect=None, rewrites=4, rtol=1e-6, atol=0)
    assert len(result.refusals) == 6


@pytest.mark.parametrize(
    "line",
    [
        "r = RandomNormalLike(w)",
        "r = Bernoulli(w)",
        "r = RandomUniform<shape=[3, 4]>()",
    ],
)
def test_node_stays_when_it_is_random(line: str) -> None:
    model = parse_model(
        f"g (float[N,3,4] x) => (float[N,3,4] y) {{ {line} z = Mul(r, w) y = Add(x, z) }}",
        {"w": W / 12},
    )
    before = op_types(model)
    assert not FoldConstants()(model).modified
    assert op_types(model) == before


def test_dequantized_weight_stays_quantized() -> None:
    model = parse_model(
        "g (float[N,3] x) => (float[N,4] y) { d = DequantizeLinear(q, k) y = MatMul(x, d) }",
        {"q": W.astype(np.int8), "k": np.float32(0.1)},
    )
    assert_rewrites(
        FoldConstants(), model, expect=["DequantizeLinear", "MatMul"], rewrites=0, rtol=0, atol=0
    )


def test_initializer_stays_overridable_when_it_is_a_graph_input() -> None:
    model = parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N] x, float[2] w) => (float[N] y) <float[2] w = {1.0, 2.0}>
        { n = ReduceSum<keepdims=0>(w) y = Add(x, n) }"""
    )
    before = op_types(model)
    assert not FoldConstants()(model).modified
    assert op_types(model) == before


def test_ir_version_is_raised_when_an_initializer_is_added_to_an_old_file() -> None:
    model = parse_model(
        """<ir_version: 3, opset_import: ["" : 9]> g (float[N] x) => (float[N] y)
        { c = Constant<value=float[1] {2.0}>() y = Add(x, c) }"""
    )
    assert_rewrites(FoldConstants(), model, expect=["Add"], rewrites=1, rtol=0, atol=0)
    assert model.ir_version == 4


@pytest.mark.parametrize("opset", [7, 11, 13, 18, 21])
def test_unsqueeze_and_squeeze_chains_fold_at_every_opset(opset: int) -> None:
    axes_are_inputs = opset >= 13
    line = (
        "u = Unsqueeze(w, axes) q = Squeeze(u, axes)"
        if axes_are_inputs
        else "u = Unsqueeze<axes=[0]>(w) q = Squeeze<axes=[0]>(u)"
    )
    model = parse_model(
        f"g (float[N,3,4] x) => (float[N,3,4] y) {{ {line} y = Add(x, q) }}",
        {"w": W} | ({"axes": np.array([0])} if axes_are_inputs else {}),
        opset=opset,
    )
    assert_rewrites(FoldConstants(), model, expect=["Add"], rewrites=2, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int32, np.int64])
def test_other_dtypes_are_folded(dtype: type) -> None:
    kind = {"float64": "double"}.get(np.dtype(dtype).name, np.dtype(dtype).name)
    model = parse_model(
        f"g ({kind}[N,4,3] x) => ({kind}[N,4,3] y) {{ t = Transpose(w) y = Add(x, t) }}",
        {"w": W.astype(dtype)},
    )
    assert_rewrites(FoldConstants(), model, expect=["Add"], rewrites=1, rtol=0, atol=0)


def test_branch_is_folded_with_values_of_the_outer_graph() -> None:
    model = parse_model(
        """g (bool c, float[N,3,4] x) => (float[N,3,4] y)
        <float[4] w = {1.0, 2.0, 3.0, 4.0}>
        {
          y = If (c) <
            then_branch = t () => (float[N,3,4] a)
              { k = Constant<value_float=3.0>() n = Mul(w, k) s = Shape(x)
                r = Reshape(x, s) a = Add(r, n) },
            else_branch = e () => (float[4] b) { b = Neg(w) }
          >
        }"""
    )
    result = assert_rewrites(
        FoldConstants(), model, expect=["If"], rewrites=4, rtol=0, atol=0, sizes=[{"N": 1}]
    )
    branches = [op.op_type for op in model.graph.all_nodes() if op.op_type != "If"]
    assert branches == ["Reshape", "Add", "Identity"]
    assert result.rewrites["known-shape"] == 1


def test_loop_body_is_folded_but_not_what_an_iteration_changes() -> None:
    model = parse_model(
        """g (int64 n, bool c, float[N,2] x) => (float[M,2] y)
        <float[1,2] w = {1.0, 2.0}>
        {
          y = Loop (n, c, x) <
            body = b (int64 i, bool go, float[K,2] a) => (bool again, float[L,2] z)
              { again = Identity(go) k = Neg(w) s = Shape(a) p = ReduceProd<keepdims=0>(s)
                f = Cast<to=1>(p) m = Mul(k, f) d = Add(a, m) z = Concat<axis=0>(d, d) }
          >
        }"""
    )
    feeds = {"n": np.array(3), "c": np.array(True), "x": np.ones((2, 2), np.float32)}
    assert_rewrites(
        FoldConstants(), model, expect=["Loop"], rewrites=1, rtol=0, atol=0, feeds=feeds
    )


def test_unused_initializer_is_removed_only_when_folding_made_it_so() -> None:
    model = parse_model(
        "g (float[N,3,4] x) => (float[N,3,4] y) { n = Neg(w) y = Add(x, n) }", {"w": W}
    )
    idle = ir.Value(name="idle", const_value=ir.tensor(W, name="idle"))
    model.graph.register_initializer(idle)
    FoldConstants()(model)
    assert sorted(model.graph.initializers) == ["idle", "n"]


def test_options_are_printed_back_when_they_differ_from_the_default() -> None:
    assert str(FoldConstants(max_growth=64)) == "fold-constants{max-growth=64}"
    assert str(FoldConstants()) == "fold-constants"


def test_equal_constants_count_once_when_growth_is_limited() -> None:
    """Eight equal tables of 64 KB where the model may grow by 280 KB in all."""
    names = [f"t{index}" for index in range(8)]
    tables = " ".join(
        f"a{name} = ConstantOfShape <value = float[1] {{2.0}}> (shape) {name} = Exp(a{name})"
        for name in names
    )
    sums = " ".join(f"s{index + 1} = Add(s{index}, {name})" for index, name in enumerate(names))
    model = parse_model(
        f"""g (float[N, 128, 128] x) => (float[N, 128, 128] y) {{
            shape = Constant <value_ints = [128, 128]> () {tables}
            s0 = Relu(x) {sums} y = Relu(s8)
        }}"""
    )
    FoldConstants(max_growth=70_000)(model)
    assert op_types(model) == ["Relu", *["Add"] * 8, "Relu"]


def _expands(count: int, size: int) -> ir.Model:
    """`count` different scalars, each expanded to `size` floats."""
    names = [f"e{index}" for index in range(count)]
    lines = " ".join(f"{name} = Expand(c{name}, shape)" for name in names)
    return parse_model(
        f"g (float[{size}] x) => (float[{size}] y) {{ {lines} y = Sum(x, {', '.join(names)}) }}",
        {"shape": np.array([size])}
        | {f"c{name}": np.array(index, np.float32) for index, name in enumerate(names)},
    )


def test_small_results_count_as_well_when_growth_is_limited() -> None:
    assert_refuses(FoldConstants(max_growth=0), _expands(4, 256), "1020 bytes larger")
    # Each is within the limit, four of them make up the allowance.
    limited = FoldConstants(max_growth=1020)
    result = assert_rewrites(limited, _expands(8, 256), expect=None, rewrites=4, rtol=0, atol=0)
    assert len(result.refusals) == 4


def test_results_of_a_few_bytes_are_free() -> None:
    assert_rewrites(
        FoldConstants(max_growth=0), _expands(4, 16), expect=["Sum"], rewrites=4, rtol=0, atol=0
    )


def test_small_result_is_folded_when_it_replaces_as_much() -> None:
    model = parse_model(
        "g (float[N,16,8] x) => (float[N,16,8] y) { t = Transpose(w) y = Add(x, t) }",
        {"w": np.ones((8, 16), np.float32)},
    )
    pass_ = FoldConstants(max_growth=0)
    assert_rewrites(pass_, model, expect=["Add"], rewrites=1, rtol=0, atol=0)


def test_options_are_refused_when_growth_is_negative() -> None:
    with pytest.raises(InvalidInputError, match="max-growth is -1, not 0 or more"):
        FoldConstants(max_growth=-1)
