"""Attributes and types that do not fit their operators."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from helpers.hostile.corpus import FLOAT, HUGE, case, graph_model, int64s
from onnx import helper


@case
def attribute_of_another_type(folder: Path) -> Path:
    return graph_model(folder, [helper.make_node("Softmax", ["x"], ["y"], axis="one")])


@case
def attribute_with_a_million_integers(folder: Path) -> Path:
    return graph_model(
        folder, [helper.make_node("Foo", ["x"], ["y"], domain="f", a=[1] * 1_000_000)]
    )


@case
def attribute_out_of_range(folder: Path) -> Path:
    return graph_model(folder, [helper.make_node("Softmax", ["x"], ["y"], axis=HUGE)])


@case
def permutation_that_is_none(folder: Path) -> Path:
    return graph_model(folder, [helper.make_node("Transpose", ["x"], ["y"], perm=[0, 0, 7])])


@case
def conv_with_zero_strides(folder: Path) -> Path:
    node = helper.make_node("Conv", ["x", "w"], ["y"], strides=[0, 0], kernel_shape=[3, 3])
    weight = np.ones((1, 1, 3, 3), np.float32)
    return graph_model(folder, [node], {"w": weight}, shape=("n", 1, 8, 8))


@case
def conv_with_zero_groups(folder: Path) -> Path:
    weight = np.ones((1, 1, 3, 3), np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=0)
    return graph_model(folder, [node], {"w": weight}, shape=("n", 1, 8, 8))


@case
def pads_of_exabytes(folder: Path) -> Path:
    return graph_model(folder, [helper.make_node("Pad", ["x", "p"], ["y"])], {"p": int64s(0, HUGE)})


@case
def text_in_arithmetic(folder: Path) -> Path:
    node = helper.make_node("Add", ["x", "t"], ["y"])
    return graph_model(folder, [node], {"t": np.array(["a"], object)})


@case
def condition_that_is_a_float(folder: Path) -> Path:
    branch = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["r"])],
        "branch",
        [],
        [helper.make_tensor_value_info("r", FLOAT, None)],
    )
    node = helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)
    return graph_model(folder, [node])


@case
def if_without_branches(folder: Path) -> Path:
    return graph_model(folder, [helper.make_node("If", ["x"], ["y"])])


@case
def division_by_zero(folder: Path) -> Path:
    nodes = [
        helper.make_node("Div", ["a", "z"], ["d"]),
        helper.make_node("Mod", ["d", "z"], ["m"]),
        helper.make_node("Cast", ["m"], ["c"], to=FLOAT),
        helper.make_node("Add", ["x", "c"], ["y"]),
    ]
    return graph_model(folder, nodes, {"a": int64s(1), "z": int64s(0)})
