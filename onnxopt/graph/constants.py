"""Values that are the same in every run: initializers and what is computed from them, lazily."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxopt.graph.evaluation import NotEvaluatedError, evaluate

Array = NDArray[Any]

# Up to here arrays are kept; reading an initializer again costs little, but not nothing.
_KEPT_ELEMENTS = 4096
# Larger intermediate results are computed again should a second value need them.
_KEPT_BYTES = 4 * 1024 * 1024
_NOTHING = np.empty(0, bool)


def constant_tensor(node: ir.Node) -> ir.TensorProtocol | None:
    """The tensor of a Constant node of any of its attribute kinds; None for a sparse tensor."""
    if len(node.attributes) != 1 or len(node.outputs) != 1:
        return None
    ((name, attribute),) = node.attributes.items()
    if attribute.is_ref():
        return None
    output = node.outputs[0].name
    match name:
        case "value":
            # as_tensor() checks the protocol at run time, which costs more than all else here.
            tensor: ir.TensorProtocol = attribute.value
            return tensor
        case "value_float" | "value_floats":
            return ir.Tensor(np.array(attribute.value, np.float32), name=output)
        case "value_int" | "value_ints":
            return ir.Tensor(np.array(attribute.value, np.int64), name=output)
        case "value_string" | "value_strings":
            is_list = name == "value_strings"
            texts = attribute.as_strings() if is_list else [attribute.as_string()]
            shape = (len(texts),) if is_list else ()
            return ir.StringTensor([t.encode() for t in texts], shape=ir.Shape(shape), name=output)
    return None


@dataclasses.dataclass(frozen=True, slots=True)
class Computation:
    """How to compute the outputs of a node.

    Attributes:
        node: What to run: the node itself, or a simpler one with the same result.
        inputs: What it reads.
        opset: Version of the default domain.
        dtypes: What the outputs must have.
    """

    node: ir.Node
    inputs: Sequence[ir.Value | None]
    opset: int
    dtypes: Sequence[ir.DataType | None]


class Constants:
    """The constant values of one model.

    Nodes whose inputs are all constant are noted as the sweep meets them; they are computed only
    when somebody asks for the array.
    """

    def __init__(self) -> None:
        self._tensors: dict[ir.Value, ir.TensorProtocol] = {}
        self._arrays: dict[ir.Value, Array] = {}
        self._pending: dict[ir.Value, ir.Node] = {}
        self._computations: dict[ir.Node, Computation] = {}
        self.failures: dict[ir.Node, str] = {}

    def __contains__(self, value: ir.Value) -> bool:
        return value in self._tensors or value in self._arrays or value in self._pending

    def add_tensor(self, value: ir.Value, tensor: ir.TensorProtocol) -> None:
        """Notes an initializer or the tensor of a Constant node."""
        self._tensors[value] = tensor

    def add_array(self, value: ir.Value, array: Array) -> None:
        """Notes a value that was computed already."""
        self._arrays[value] = array

    def add_node(self, node: ir.Node, computation: Computation) -> None:
        """Notes a node whose inputs are all constant, to be computed on demand."""
        self._computations[node] = computation
        for output in node.outputs:
            self._pending[output] = node

    def discard(self, node: ir.Node) -> None:
        """Forgets what was noted for a node."""
        self._computations.pop(node, None)
        self.failures.pop(node, None)
        for output in node.outputs:
            self._tensors.pop(output, None)
            self._arrays.pop(output, None)
            self._pending.pop(output, None)

    def tensor(self, value: ir.Value) -> ir.TensorProtocol | None:
        """The stored tensor of an initializer or a Constant node."""
        return self._tensors.get(value)

    def known(self, value: ir.Value) -> Array | None:
        """The array if nothing has to be computed for it."""
        array = self._arrays.get(value)
        if array is None:
            tensor = self._tensors.get(value)
            if tensor is None or tensor.dtype == ir.DataType.STRING:
                return None
            array = tensor.numpy()
            if array.size <= _KEPT_ELEMENTS:
                self._arrays[value] = array
        return array

    def array(self, value: ir.Value) -> Array | None:
        """The array, computed now if need be; None if it is no constant or cannot be computed."""
        stack = [value]
        large: list[ir.Value] = []
        while stack:
            current = stack[-1]
            node = self._pending.get(current)
            if current in self._arrays or node is None or node in self.failures:
                stack.pop()
                continue
            missing = [
                item
                for item in self._computations[node].inputs
                if item is not None and item not in self._arrays and item in self._pending
            ]
            if any(self._pending[item] in self.failures for item in missing):
                self.failures[node] = "an input could not be computed"
            elif missing:
                stack.extend(missing)
            else:
                self._compute(node)
                if self._arrays.get(current, _NOTHING).nbytes > _KEPT_BYTES:
                    large.append(current)
        result = self.known(value)
        for item in large:
            self._arrays.pop(item)
        return result

    def _compute(self, node: ir.Node) -> None:
        computation = self._computations[node]
        inputs: list[Array | None] = []
        for item in computation.inputs:
            array = None if item is None else self.known(item)
            if item is not None and array is None:
                self.failures[node] = "an input is not numeric"
                return
            inputs.append(array)
        try:
            arrays = evaluate(computation.node, inputs, computation.opset, computation.dtypes)
        except NotEvaluatedError as reason:
            self.failures[node] = str(reason)
            return
        for output, array in zip(node.outputs, arrays, strict=True):
            self._arrays[output] = array
