"""`inspect_model`: what a model is made of, as data."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from onnxopt.core.walking import all_graphs
from onnxopt.graph.accepting import accepted_model
from onnxopt.graph.cost import model_cost, model_tensors
from onnxopt.graph.inference import infer_model
from onnxopt.graph.input_shapes import fix_input_shapes
from onnxopt.graph.known_operators import unknown_operators
from onnxopt.graph.loading import load_model
from onnxopt.graph.values import dims

if TYPE_CHECKING:
    from onnx import ModelProto

_LARGEST = 20


@dataclasses.dataclass(frozen=True)
class Summary:
    """A model in numbers; the fields are documented by `to_dict`'s keys of the same names."""

    ir_version: int
    producer: str
    opsets: dict[str, int]
    nodes: int
    subgraphs: int
    functions: int
    parameters: int
    flops: int
    flops_unknown: int
    operators: dict[str, int]
    bytes_by_type: dict[str, int]
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    largest: list[dict[str, Any]]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return dataclasses.asdict(self)


def inspect_model(
    model: str | os.PathLike[str] | ir.Model | ModelProto,
    *,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> Summary:
    """Counts what a model is made of and what one run of it costs.

    Args:
        model: A path, or a model in memory (onnx_ir or onnx protobuf), which is left as it is.
        input_shapes: Input name to a shape to assume; symbolic dimensions count as 1 otherwise.

    Raises:
        OnnxOptError: The model cannot be read or a shape does not fit.
    """
    if isinstance(model, (str, os.PathLike)):
        model = load_model(model)
    else:
        model = accepted_model(model).clone()
    if input_shapes:
        fix_input_shapes(model, input_shapes)
    interface = {
        "inputs": [_value(v) for v in model.graph.inputs if not v.is_initializer()],
        "outputs": [_value(v) for v in model.graph.outputs],
    }
    unknown = unknown_operators(model)
    infer_model(model)
    cost = model_cost(model)
    graphs = list(all_graphs(model))
    operators = Counter(
        f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        for graph in graphs
        for node in graph
    )
    tensors = model_tensors(model)
    by_type: Counter[str] = Counter()
    for tensor in tensors.values():
        by_type[str(tensor.dtype)] += tensor.nbytes
    largest = sorted(tensors.items(), key=lambda item: -item[1].nbytes)[:_LARGEST]
    return Summary(
        ir_version=model.ir_version,
        producer=" ".join(filter(None, (model.producer_name, model.producer_version))),
        opsets=dict(model.opset_imports),
        nodes=sum(operators.values()),
        subgraphs=len(graphs) - 1,
        functions=len(model.functions),
        parameters=sum(tensor.size for tensor in tensors.values()),
        flops=cost.flops,
        flops_unknown=cost.unknown,
        operators=dict(operators.most_common()),
        bytes_by_type=dict(by_type.most_common()),
        largest=[
            {
                "name": name,
                "type": str(tensor.dtype),
                "shape": list(tensor.shape.numpy()),
                "bytes": tensor.nbytes,
            }
            for name, tensor in largest
        ],
        notes=[
            f"operator {name} is not known here ({count} nodes)" for name, count in unknown.items()
        ],
        **interface,
    )


def _value(value: ir.Value) -> dict[str, Any]:
    shape = dims(value)
    return {
        "name": value.name,
        "type": str(value.dtype) if value.dtype is not None else str(value.type),
        "shape": None if shape is None else ["?" if dim is None else dim for dim in shape],
    }
