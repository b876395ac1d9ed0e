"""InlineFunctions: attributes, nesting, subgraphs, names, and what stays a call."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.rewriting import assert_refuses, assert_rewrites, op_types, parse_model, run

from onnxopt.core.errors import InvalidInputError, InvalidModelError
from onnxopt.passes.cleanup.functions import InlineFunctions

_HEAD = '<ir_version: 10, opset_import: ["" : 18, "f" : 1]>'
_SOFT = '<domain: "f", opset_import: ["" : 18]> Soft (p) => (r) { q = Exp(p) r = Neg(q) }'


def test_body_takes_the_place_when_a_function_is_called_twice() -> None:
    model = parse_model(
        f"{_HEAD} g (float[N] x) => (float[N] y) {{ a = f.Soft(x) y = f.Soft(a) }} {_SOFT}"
    )
    assert_rewrites(InlineFunctions(), model, expect=["Exp", "Neg"] * 2, rewrites=2, rtol=0, atol=0)
    assert not model.functions
    names = [value.name for node in model.graph for value in node.outputs]
    assert len(set(names)) == 4
    assert "a" in names


def test_calls_nest_when_functions_call_functions() -> None:
    model = parse_model(
        f"""{_HEAD} g (float[N] x) => (float[N] y) {{ y = f.Twice(x) }}
        <domain: "f", opset_import: ["" : 18, "f" : 1]>
        Twice (p) => (r) {{ q = f.Soft(p) r = f.Soft(q) }} {_SOFT}"""
    )
    assert_rewrites(InlineFunctions(), model, expect=["Exp", "Neg"] * 2, rewrites=3, rtol=0, atol=0)


_ALPHA = """<domain: "f", opset_import: ["" : 18]>
    Leaky <{declared}> (p) => (r) {{ r = LeakyRelu<alpha : float = @alpha>(p) }}"""


@pytest.mark.parametrize(
    ("call", "declared", "alpha"),
    [
        ("f.Leaky<alpha = 0.5>", "alpha", 0.5),
        ("f.Leaky<alpha = 0.5>", "alpha : float = 0.3", 0.5),
        ("f.Leaky", "alpha : float = 0.25", 0.25),
    ],
    ids=["given", "given-over-default", "default"],
)
def test_reference_takes_the_attribute(call: str, declared: str, alpha: float) -> None:
    model = parse_model(
        f"{_HEAD} g (float[N] x) => (float[N] y) {{ y = {call}(x) }}"
        + _ALPHA.format(declared=declared)
    )
    assert_rewrites(InlineFunctions(), model, expect=["LeakyRelu"], rewrites=1, rtol=0, atol=0)
    assert model.graph[0].attributes["alpha"].as_float() == alpha


def test_reference_vanishes_when_neither_call_nor_function_has_a_value() -> None:
    model = parse_model(
        f"{_HEAD} g (float[N] x) => (float[N] y) {{ y = f.Leaky(x) }}"
        + _ALPHA.format(declared="alpha")
    )
    InlineFunctions()(model)
    assert not model.graph[0].attributes


def test_attribute_passes_through_when_the_caller_is_a_function() -> None:
    model = parse_model(
        f"""{_HEAD} g (float[N] x) => (float[N] y) {{ y = f.Outer<slope = 0.5>(x) }}
        <domain: "f", opset_import: ["" : 18, "f" : 1]>
        Outer <slope> (p) => (r) {{ r = f.Leaky<alpha : float = @slope>(p) }}"""
        + _ALPHA.format(declared="alpha")
    )
    kept = model.clone()
    assert_rewrites(InlineFunctions(), model, expect=["LeakyRelu"], rewrites=2, rtol=0, atol=0)
    assert model.graph[0].attributes["alpha"].as_float() == 0.5
    assert_rewrites(
        InlineFunctions(keep=("f::Outer",)), kept, expect=["f.Outer"], rewrites=1, rtol=0, atol=0
    )
    (outer,) = kept.functions.values()
    assert outer[0].attributes["alpha"].ref_attr_name == "slope"


def test_optional_input_stays_out_when_the_call_leaves_it_out() -> None:
    model = parse_model(
        f"""{_HEAD} g (float[N] x) => (float[N] y) {{ y = f.Bound(x) }}
        <domain: "f", opset_import: ["" : 18]>
        Bound (p, low, high) => (r) {{ r = Clip(p, low, high) }}"""
    )
    assert_rewrites(InlineFunctions(), model, expect=["Clip"], rewrites=1, rtol=0, atol=0)
    assert list(model.graph[0].inputs[1:]) == [None, None]


@pytest.mark.parametrize(
    ("body", "expect"),
    [
        ("y, z = f.Both(x)", ["Neg", "Identity"]),
        ("a, z = f.Both(x) y = Abs(a)", ["Neg", "Abs"]),
        ("y, b = f.Both(x) z = Abs(b)", ["Neg", "Abs"]),
    ],
)
def test_outputs_keep_their_names_when_the_function_returns_a_value_twice(
    body: str, expect: list[str]
) -> None:
    model = parse_model(
        f"""{_HEAD} g (float[N] x) => (float[N] y, float[N] z) {{ {body} }}
        <domain: "f", opset_import: ["" : 18]> Both (p) => (r, r) {{ r = Neg(p) }}"""
    )
    assert InlineFunctions()(model).rewrites["inline-function"] == 1
    assert op_types(model) == expect
    # ONNX Runtime does not load such a function; what is left of it, it does.
    x = np.array([1.0, -2.0], np.float32)
    y, z = run(model, {"x": x})
    assert {value.name for value in model.graph.outputs} == {"y", "z"}
    np.testing.assert_array_equal(np.abs(y), np.abs(z))


def test_identity_carries_the_output_when_the_function_returns_its_input() -> None:
    model = parse_model(
        f"""{_HEAD} g (float[N] x) => (float[N] y) {{ y = f.Same(x) }}
        <domain: "f", opset_import: ["" : 18]> Same (p) => (p) {{ q = Neg(p) }}"""
    )
    InlineFunctions()(model)
    assert [node.op_type for node in model.graph] == ["Neg", "Identity"]
    assert model.graph.outputs[0].name == "y"


def test_call_in_a_branch_is_inlined_and_no_name_shadows_another() -> None:
    model = parse_model(
        f"""{_HEAD} g (float[N] x, bool c) => (float[N] y) {{
            q = Abs(x)
            y = If (c) <
                then_branch = t () => (float[N] u) {{ u = f.Soft(q) }},
                else_branch = e () => (float[N] v) {{ v = Neg(x) }}
            >
        }} {_SOFT}"""
    )
    assert_rewrites(InlineFunctions(), model, expect=["Abs", "If"], rewrites=1, rtol=0, atol=0)
    names = [value.name for node in model.graph.all_nodes() for value in node.outputs]
    assert len(names) == len(set(names))


def test_loop_variables_get_unique_names_when_the_body_holds_a_loop() -> None:
    model = parse_model(
        f"""{_HEAD} g (float[N] x) => (float[N] y) {{
            i = Neg(x) a = f.Three(i) y = f.Three(a)
        }}
        <domain: "f", opset_import: ["" : 18]> Three (p) => (r) {{
            n = Constant<value_int = 3>() t = Constant<value = bool {{1}}>()
            r = Loop (n, t, p) <body = b (int64 i, bool k, float[M] v) => (bool k2, float[M] w)
                {{ k2 = Identity(k) w = Add(v, p) }}>
        }}"""
    )
    assert_rewrites(
        InlineFunctions(), model,
        expect=["Neg", *["Constant", "Constant", "Loop"] * 2], rewrites=2, rtol=0, atol=0,
    )  # fmt: skip
    inputs = [v.name for graph in model.graphs() if graph is not model.graph for v in graph.inputs]
    assert len(set(inputs)) == 6
    assert "i" not in inputs


def test_function_stays_when_keep_names_it_and_its_own_calls_are_inlined() -> None:
    model = parse_model(
        f"""{_HEAD} g (float[N] x) => (float[N] y) {{ a = f.Twice(x) y = f.Soft(a) }}
        <domain: "f", opset_import: ["" : 18, "f" : 1]>
        Twice (p) => (r) {{ q = f.Soft(p) r = f.Soft(q) }} {_SOFT}"""
    )
    pass_ = InlineFunctions(keep=("f::Twice",))
    result = assert_rewrites(
        pass_, model, expect=["f.Twice", "Exp", "Neg"], rewrites=3, rtol=0, atol=0
    )
    assert [refusal.reason for refusal in result.refusals] == ["the option keep names the function"]
    assert [function.name for function in model.functions.values()] == ["Twice"]


def test_function_that_nobody_calls_loses_its_calls_too() -> None:
    model = parse_model(
        f"""{_HEAD} g (float[N] x) => (float[N] y) {{ y = f.Soft(x) }}
        <domain: "f", opset_import: ["" : 18, "f" : 1]> Unused (p) => (r) {{ r = f.Soft(p) }}
        {_SOFT}"""
    )
    assert_rewrites(InlineFunctions(), model, expect=["Exp", "Neg"], rewrites=2, rtol=0, atol=0)
    (unused,) = model.functions.values()
    assert [node.op_type for node in unused] == ["Exp", "Neg"]


def test_error_lists_the_functions_when_keep_is_misspelled() -> None:
    model = parse_model(f"{_HEAD} g (float[N] x) => (float[N] y) {{ y = f.Soft(x) }} {_SOFT}")
    with pytest.raises(InvalidInputError, match="the functions of the model are f::Soft"):
        InlineFunctions(keep=("f::Sotf",))(model)


def test_reason_is_given_when_the_opsets_differ() -> None:
    model = parse_model(
        f"""{_HEAD} g (float[N] x) => (float[N] y) {{ y = f.Old(x) }}
        <domain: "f", opset_import: ["" : 12]> Old (p) => (r) {{ r = Neg(p) }}"""
    )
    assert_refuses(InlineFunctions(), model, "version 12 of domain 'ai.onnx'")


def test_domain_is_imported_when_only_the_function_uses_it() -> None:
    model = parse_model(
        f"""{_HEAD} g (float[N] x) => (float[N] y) {{ y = f.Fast(x) }}
        <domain: "f", opset_import: ["" : 18, "com.microsoft" : 1]>
        Fast (p) => (r) {{ r = com.microsoft.Gelu(p) }}"""
    )
    assert_rewrites(
        InlineFunctions(), model, expect=["com.microsoft.Gelu"], rewrites=1, rtol=0, atol=0,
        check=False,
    )  # fmt: skip
    assert model.opset_imports["com.microsoft"] == 1


def test_error_names_the_cycle_when_functions_are_recursive() -> None:
    model = parse_model(
        f"""{_HEAD} g (float[N] x) => (float[N] y) {{ y = f.A(x) }}
        <domain: "f", opset_import: ["" : 18, "f" : 1]> A (p) => (r) {{ r = f.B(p) }}
        <domain: "f", opset_import: ["" : 18, "f" : 1]> B (p) => (r) {{ r = f.A(p) }}"""
    )
    with pytest.raises(InvalidModelError, match=r"in a circle: f::(A|B) -> f::(A|B) -> f::(A|B)"):
        InlineFunctions()(model)


def test_cost_is_linear_when_one_function_is_called_often() -> None:
    calls = " ".join(f"v{i + 1} = f.Soft(v{i})" for i in range(2000))
    model = parse_model(
        f"{_HEAD} g (float[N] v0) => (float[N] y) {{ {calls} y = Abs(v2000) }} {_SOFT}"
    )
    assert InlineFunctions()(model).rewrites["inline-function"] == 2000
    assert len(model.graph) == 4001
