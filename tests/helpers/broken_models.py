"""Small valid models to break, and the one-line check that every refusal must pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnxopt.core.errors import OnnxOptError

FLOAT = onnx.TensorProto.FLOAT


def weights(count: int, seed: int = 0) -> NDArray[np.float32]:
    """Random float32 numbers."""
    return np.random.default_rng(seed).standard_normal(count).astype(np.float32)


def make_model(
    nodes: Sequence[onnx.NodeProto] | None = None,
    *,
    initializers: dict[str, NDArray[Any]] | None = None,
    inputs: Sequence[str] = ("x",),
    outputs: Sequence[str] = ("y",),
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    """By default y = Relu(x + w + b) with a large w (cut out of the message) and a small b."""
    if nodes is None:
        nodes = [
            helper.make_node("Add", ["x", "w"], ["a"], name="add_w"),
            helper.make_node("Add", ["a", "b"], ["c"], name="add_b"),
            helper.make_node("Relu", ["c"], ["y"], name="relu"),
        ]
        initializers = {"w": weights(2000), "b": weights(1), **(initializers or {})}
    graph = helper.make_graph(
        nodes,
        "main",
        [helper.make_tensor_value_info(name, FLOAT, ["n"]) for name in inputs],
        [helper.make_tensor_value_info(name, FLOAT, ["n"]) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in (initializers or {}).items()],
    )
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
        functions=list(functions),
    )


def nested_model(levels: int) -> onnx.ModelProto:
    """If nodes inside If nodes."""
    branch = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["inner"])],
        "innermost",
        [],
        [helper.make_tensor_value_info("inner", FLOAT, None)],
    )
    # The other branch is always the innermost one: the size grows with the depth, not its power.
    innermost = branch
    for level in range(levels):
        node = helper.make_node(
            "If", ["flag"], [f"r{level}"], then_branch=branch, else_branch=innermost
        )
        output = helper.make_tensor_value_info(f"r{level}", FLOAT, None)
        branch = helper.make_graph([node], f"level{level}", [], [output])
    model = make_model(list(branch.node), inputs=("x",), outputs=(f"r{levels - 1}",))
    flag = helper.make_tensor_value_info("flag", onnx.TensorProto.BOOL, [])
    model.graph.input.append(flag)
    return model


def external_model(
    folder: Path, *, location: str = "data.bin", offset: str = "0", length: str | None = "8000"
) -> Path:
    """A model whose w (2000 floats) is external data; data.bin holds exactly that."""
    folder.mkdir(parents=True, exist_ok=True)
    model = make_model()
    tensor = model.graph.initializer[0]
    (folder / "data.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    tensor.external_data.add(key="offset", value=offset)
    if length is not None:
        tensor.external_data.add(key="length", value=length)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def refusal(
    call: Callable[[], Any], error: type[OnnxOptError] = OnnxOptError, match: str | None = None
) -> str:
    """Calls what must be refused; returns the message, which must be one readable line."""
    with pytest.raises(error, match=match) as info:
        call()
    message = str(info.value)
    assert "\n" not in message
    assert 10 < len(message) < 500
    return message
