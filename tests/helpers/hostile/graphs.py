"""Graphs and functions that no model may have."""

from __future__ import annotations

import itertools
from pathlib import Path

import onnx
from helpers.broken_models import make_model
from helpers.hostile.corpus import FLOAT, HUGE, case, graph_model, save
from onnx import helper


@case
def cycle(folder: Path) -> Path:
    nodes = [helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    return save(folder, make_model([*nodes, helper.make_node("Relu", ["b"], ["y"])]))


@case
def cycle_of_functions(folder: Path) -> Path:
    functions = [
        helper.make_function(
            "f",
            name,
            ["p"],
            ["r"],
            [helper.make_node(other, ["p"], ["r"], domain="f")],
            [helper.make_opsetid("f", 1)],
        )
        for name, other in (("A", "B"), ("B", "A"))
    ]
    return graph_model(
        folder, [helper.make_node("A", ["x"], ["y"], domain="f")], functions=functions
    )


@case
def functions_that_double(folder: Path) -> Path:
    """Each calls the one before it twice: 2^60 nodes once inlined."""
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("f", 1)]
    functions = [
        helper.make_function(
            "f", "F0", ["p"], ["r"], [helper.make_node("Relu", ["p"], ["r"])], opsets
        )
    ]
    for level in range(1, 61):
        inner = f"F{level - 1}"
        nodes = [
            helper.make_node(inner, ["p"], ["m"], domain="f"),
            helper.make_node(inner, ["m"], ["r"], domain="f"),
        ]
        functions.append(helper.make_function("f", f"F{level}", ["p"], ["r"], nodes, opsets))
    return graph_model(
        folder, [helper.make_node("F60", ["x"], ["y"], domain="f")], functions=functions
    )


@case
def function_with_outer_values(folder: Path) -> Path:
    function = helper.make_function(
        *("f", "F", ["p"], ["r"], [helper.make_node("Add", ["p", "x"], ["r"])]),
        [helper.make_opsetid("", 18)],
    )
    call = helper.make_node("F", ["x"], ["y"], domain="f")
    return graph_model(folder, [call], functions=[function])


@case
def duplicated_names(folder: Path) -> Path:
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Neg", ["x"], ["y"])]
    return save(folder, make_model(nodes))


@case
def undefined_input(folder: Path) -> Path:
    return save(folder, make_model([helper.make_node("Relu", ["gone"], ["y"])]))


@case
def no_outputs(folder: Path) -> Path:
    return save(folder, make_model(outputs=()))


@case
def no_graph(folder: Path) -> Path:
    return save(folder, onnx.ModelProto(ir_version=10))


@case
def opset_of_the_far_future(folder: Path) -> Path:
    model = make_model()
    model.opset_import[0].version = HUGE
    return save(folder, model)


@case
def attribute_twice(folder: Path) -> Path:
    node = helper.make_node("LeakyRelu", ["x"], ["y"], alpha=0.5)
    node.attribute.append(helper.make_attribute("alpha", 0.1))
    return save(folder, make_model([node]))


@case
def graph_in_an_operator_without(folder: Path) -> Path:
    body = helper.make_graph([helper.make_node("Relu", ["x"], ["r"])], "g", [], [
        helper.make_tensor_value_info("r", FLOAT, None)])  # fmt: skip
    return save(folder, make_model([helper.make_node("Relu", ["x"], ["y"], extra=body)]))


@case
def two_versions_of_one_domain(folder: Path) -> Path:
    model = make_model()
    model.opset_import.append(helper.make_opsetid("ai.onnx", 1))
    return save(folder, model)


@case
def opset_negative(folder: Path) -> Path:
    model = make_model()
    model.opset_import[0].version = -5
    return save(folder, model)


@case
def chain_of_five_thousand(folder: Path) -> Path:
    names = ["x", *(f"v{number}" for number in range(4_999)), "y"]
    nodes = [helper.make_node("Abs", [a], [b]) for a, b in itertools.pairwise(names)]
    return save(folder, make_model(nodes))


@case
def symbols_that_explode(folder: Path) -> Path:
    """Every Concat doubles a dimension with a symbol in it, every Reshape multiplies them."""
    nodes, value = [], "x"
    for number in range(200):
        nodes += [
            helper.make_node("Concat", [value, value], [f"c{number}"], axis=0),
            helper.make_node("Shape", [f"c{number}"], [f"s{number}"]),
            helper.make_node("Mul", [f"s{number}", f"s{number}"], [f"m{number}"]),
            helper.make_node("Cast", [f"m{number}"], [f"f{number}"], to=FLOAT),
            helper.make_node("Concat", [f"c{number}", f"f{number}"], [f"d{number}"], axis=0),
        ]
        value = f"d{number}"
    return graph_model(folder, [*nodes[:60], helper.make_node("Relu", ["d11"], ["y"])])
