"""What the cases of the corpus are made with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnxopt.graph.wire import length_delimited

Write = Callable[[Path], Path]

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
CASES: dict[str, Write] = {}

HUGE = 2**62


def field(number: int, content: bytes) -> bytes:
    """A field of bytes in protobuf's wire format."""
    return length_delimited(number, len(content)) + content


def case(function: Write) -> Write:
    """Adds a case to the corpus, under its function's name."""
    CASES[function.__name__.replace("_", "-")] = function
    return function


def save(folder: Path, model: onnx.ModelProto | bytes, name: str = "model.onnx") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return path


def graph_model(
    folder: Path,
    nodes: Sequence[onnx.NodeProto],
    initializers: dict[str, NDArray[Any]] | None = None,
    *,
    shape: Sequence[int | str] | None = ("n",),
    opset: int = 18,
    functions: Sequence[onnx.FunctionProto] = (),
) -> Path:
    """Y = nodes(x)."""
    graph = helper.make_graph(
        nodes,
        "main",
        [helper.make_tensor_value_info("x", FLOAT, shape)],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in (initializers or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("f", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=functions)
    return save(folder, model)


def int64s(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)
