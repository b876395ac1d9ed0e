"""A palette of few values for each weight.

    W -> Gather(palette, Cast(indices))          palette: 16 or 256 floats, indices: one byte each
    W -> W with no more than 16 or 256 different values                          (form "values")

The palette is found by k-means, one for each weight, and computed when the model is written. ONNX
Runtime folds Cast and Gather when it loads the model: the file is a quarter as large, memory and
speed are those of float. Nothing runs faster by it. With "values" the file stays as large, and
compresses well: 16 values are half a byte each to any compressor.

Left alone, each with its reason: graph inputs and outputs, types other than float32 and float16,
weights of one dimension, small ones, masks (constants with infinities, but no NaN). Constants in
functions and attributes are not looked at. Weights in subgraphs are clustered like those of the
main graph. Weights that are clustered already are left alone; in a file of form "values" that
cannot be told, and clustering gives the same again.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from onnxopt.core.errors import InvalidInputError
from onnxopt.core.names import Names
from onnxopt.core.passes import Pass, PassResult, Refusal
from onnxopt.core.walking import all_graphs
from onnxopt.graph.mapped import tensor_chunks
from onnxopt.graph.palettes import Values, find_palette, nearest
from onnxopt.passes.quantization.weight_only import excluded

_RULE = "palette"
_COUNTS = (16, 256)
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
_SMALLEST = 4096


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClusterWeights(Pass):
    """Gives each weight a palette of 16 or 256 values, for smaller files.

    Attributes:
        count: Values of a palette: 16 or 256.
        form: "gather" stores indices, "values" floats that compress well.
        exclude: Names of weights, or patterns as `*embed*`, to leave alone.
    """

    name: ClassVar[str] = "cluster-weights"
    claims_speed: ClassVar[bool] = False

    count: int = 256
    form: Literal["gather", "values"] = "gather"
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.count not in _COUNTS:
            raise InvalidInputError(f"a palette has 16 or 256 values, not {self.count}")

    def call(self, model: ir.Model) -> PassResult:
        """Rewrites the initializers of the main graph and its subgraphs."""
        result, names = PassResult(model), Names(model)
        rewrites: Counter[str] = Counter()
        for graph in list(all_graphs(model)):
            for value in list(graph.initializers.values()):
                tensor = value.const_value
                if tensor is None or not tensor.dtype.is_floating_point() or len(tensor.shape) < 2:
                    continue
                if reason := self._reason(value, tensor):
                    result.refusals.append(Refusal(_RULE, value.name or "", reason))
                    continue
                weight = _Clustered(tensor, self.count)
                if self.form == "values":
                    value.const_value = weight.values()
                else:
                    _gather(graph, value, weight, names)
                rewrites[_RULE] += 1
        return PassResult(model, rewrites, result.refusals)

    def _reason(self, value: ir.Value, tensor: ir.TensorProtocol) -> str:
        if value.is_graph_input():
            return "it is also a graph input that the caller may replace"
        if value.is_graph_output():
            return "it is a graph output"
        if tensor.dtype not in _FLOATS:
            return f"it is {tensor.dtype.name}, not float32 or float16"
        if tensor.size < _SMALLEST:
            return f"it has fewer than {_SMALLEST} elements"
        if isinstance(tensor, _PaletteValues):
            return "it is clustered already"
        if excluded(value.name or "", self.exclude):
            return "it is excluded"
        return "it holds infinities, as masks do" if _is_mask(tensor) else ""


def _is_mask(tensor: ir.TensorProtocol) -> bool:
    """True if some numbers are infinite and none is NaN, which would be damage."""
    infinite = False
    for chunk in tensor_chunks(tensor):
        low, high = chunk.min(), chunk.max()  # a NaN shows in both
        if np.isnan(low):
            return False
        infinite = infinite or bool(np.isinf(low) or np.isinf(high))
    return infinite


class _PaletteValues(ir.LazyTensor):
    """A weight with no more different values than a palette has."""


class _Clustered:
    """A weight as a palette and indices, computed when one of them is read."""

    def __init__(self, tensor: ir.TensorProtocol, count: int) -> None:
        self._tensor = tensor
        self._count = count
        self._palette: Values | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self._tensor.shape.numpy())

    def _find(self) -> Values:
        if self._palette is None:  # kept: it is small, and needed for the indices as well
            self._palette = find_palette(self._tensor, self._count)
        return self._palette

    def palette(self, name: str) -> ir.TensorProtocol:
        def read() -> ir.TensorProtocol:
            found = self._find()
            filled = np.pad(found, (0, self._count - len(found)), mode="edge")
            return ir.tensor(filled.astype(self._tensor.dtype.numpy()), name=name)

        dtype = self._tensor.dtype
        return ir.LazyTensor(read, dtype=dtype, shape=ir.Shape((self._count,)), name=name)

    def indices(self, name: str) -> ir.TensorProtocol:
        def read() -> ir.TensorProtocol:
            return ir.tensor(nearest(self._find(), self._tensor), name=name)

        return ir.LazyTensor(read, dtype=ir.DataType.UINT8, shape=ir.Shape(self.shape), name=name)

    def values(self) -> ir.TensorProtocol:
        def read() -> ir.TensorProtocol:
            found = self._find().astype(self._tensor.dtype.numpy())
            return ir.tensor(found[nearest(self._find(), self._tensor)], name=self._tensor.name)

        return _PaletteValues(
            read, dtype=self._tensor.dtype, shape=ir.Shape(self.shape), name=self._tensor.name
        )


def _gather(graph: ir.Graph, value: ir.Value, weight: _Clustered, names: Names) -> None:
    """Has the graph compute the value from a palette and indices."""
    assert value.const_value is not None
    dtype, name = value.const_value.dtype, value.name or ""
    parts = {
        "palette": weight.palette(names.unique(f"{name}_palette")),
        "indices": weight.indices(names.unique(f"{name}_indices")),
    }
    inputs = []
    for tensor in parts.values():
        part = ir.Value(
            name=tensor.name,
            type=ir.TensorType(tensor.dtype),
            shape=ir.Shape(tensor.shape.numpy()),
            const_value=tensor,
        )
        graph.register_initializer(part)
        inputs.append(part)
    cast = ir.node(
        "Cast", [inputs[1]], {"to": ir.DataType.INT32}, name=names.unique_node(f"{name}_cast")
    )
    cast.outputs[0].name = names.unique(f"{name}_indices32")
    cast.outputs[0].type = ir.TensorType(ir.DataType.INT32)
    cast.outputs[0].shape = ir.Shape(weight.shape)
    gather = ir.node("Gather", [inputs[0], cast.outputs[0]], {"axis": 0})
    gather.name = names.unique_node(f"{name}_gather")
    graph.initializers.pop(name)
    value.const_value = None
    new = gather.outputs[0]
    new.name, new.type, new.shape = name, ir.TensorType(dtype), ir.Shape(weight.shape)
    ir.convenience.replace_all_uses_with(value, new)
    first = next(iter(graph))
    graph.insert_before(first, [cast, gather])
