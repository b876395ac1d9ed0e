"""Work without end, in time or memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from helpers.broken_models import make_model
from helpers.hostile.corpus import BOOL, FLOAT, HUGE, INT64, case, graph_model, int64s, save
from numpy.typing import NDArray
from onnx import helper


@case
def constant_of_exabytes(folder: Path) -> Path:
    nodes = [
        helper.make_node("ConstantOfShape", ["s"], ["c"]),
        helper.make_node("ReduceSum", ["c"], ["r"], keepdims=0),
        helper.make_node("Add", ["x", "r"], ["y"]),
    ]
    return graph_model(folder, nodes, {"s": int64s(2**31, 2**31)})


@case
def range_of_exabytes(folder: Path) -> Path:
    nodes = [
        helper.make_node("Range", ["a", "b", "c"], ["r"]),
        helper.make_node("Cast", ["r"], ["f"], to=FLOAT),
        helper.make_node("Add", ["x", "f"], ["y"]),
    ]
    arrays = {"a": np.array(0), "b": np.array(HUGE), "c": np.array(1)}
    return graph_model(folder, nodes, arrays)


@case
def tile_of_exabytes(folder: Path) -> Path:
    nodes = [
        helper.make_node("Tile", ["w", "t"], ["c"]),
        helper.make_node("Add", ["x", "c"], ["y"]),
    ]
    return graph_model(folder, nodes, {"w": np.ones(8, np.float32), "t": int64s(2**58)})


@case
def expansions_that_double(folder: Path) -> Path:
    """Constants that double 50 times."""
    nodes = [
        helper.make_node("Concat", [f"c{k}", f"c{k}"], [f"c{k + 1}"], axis=0) for k in range(50)
    ]
    nodes += [
        helper.make_node("ReduceMax", ["c50"], ["r"], keepdims=0),
        helper.make_node("Add", ["x", "r"], ["y"]),
    ]
    return graph_model(folder, nodes, {"c0": np.ones(4, np.float32)})


@case
def einsum_of_many_letters(folder: Path) -> Path:
    letters = "abcdefghijklmnopqrstuvwxyz"
    node = helper.make_node("Einsum", ["w", "w"], ["e"], equation=f"{letters},{letters}->")
    array = np.ones((2,) * 26, np.float32)[(slice(0, 1),) * 26]
    return graph_model(folder, [node, helper.make_node("Add", ["x", "e"], ["y"])], {"w": array})


def _loop(folder: Path, trips: str, condition: str, arrays: dict[str, NDArray[Any]]) -> Path:
    body = helper.make_graph(
        [
            helper.make_node("Abs", ["v"], ["o"]),
            helper.make_node("Identity", ["c"], ["again"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", INT64, []),
            helper.make_tensor_value_info("c", BOOL, []),
            helper.make_tensor_value_info("v", FLOAT, ["n"]),
        ],
        [
            helper.make_tensor_value_info("again", BOOL, []),
            helper.make_tensor_value_info("o", FLOAT, ["n"]),
        ],
    )
    node = helper.make_node("Loop", [trips, condition, "x"], ["l"], body=body)
    return graph_model(folder, [node, helper.make_node("Relu", ["l"], ["y"])], arrays)


@case
def loop_of_ages(folder: Path) -> Path:
    return _loop(folder, "m", "", {"m": np.array(HUGE)})


@case
def loop_without_end(folder: Path) -> Path:
    return _loop(folder, "", "c0", {"c0": np.array(True)})


@case
def custom_operator_library(folder: Path) -> Path:
    model = make_model([helper.make_node("Run", ["x"], ["y"], domain="evil.so")])
    model.opset_import.append(helper.make_opsetid("evil.so", 1))
    model.metadata_props.add(key="custom_op_library", value="./evil.so")
    return save(folder, model)
