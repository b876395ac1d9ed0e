"""Sparse tensors of a model message become dense ones, which is all that onnx_ir knows.

    sparse_initializer {values, indices, dims}  ->  initializer {raw_data, dims}
    Constant(sparse_value)                      ->  Constant(value)

Refused: tensors that are larger than 256 MB when dense, and indices outside the dimensions.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from onnxopt.core.errors import InvalidModelError
from onnxopt.graph.tensor_data import check_tensor, is_external, tensor_dims

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, SparseTensorProto, TensorProto

_MOST_BYTES: Final = 256 << 20


def make_initializers_dense(graph: GraphProto) -> None:
    """Appends the sparse initializers of a graph to its dense ones.

    Raises:
        InvalidModelError: A sparse tensor is broken or too large.
    """
    for sparse in graph.sparse_initializer:
        where = f"sparse initializer {sparse.values.name!r}"
        graph.initializer.add().CopyFrom(_dense(sparse, where))
    graph.ClearField("sparse_initializer")


def make_attribute_dense(attribute: AttributeProto, where: str) -> None:
    """Turns the `sparse_value` of a Constant node into its `value`.

    Raises:
        InvalidModelError: The sparse tensor is broken or too large.
    """
    dense = _dense(attribute.sparse_tensor, where)
    attribute.Clear()
    attribute.name = "value"
    attribute.type = attribute.TENSOR
    attribute.t.CopyFrom(dense)


def _dense(sparse: SparseTensorProto, where: str) -> TensorProto:
    from onnx import numpy_helper

    values, indices = sparse.values, sparse.indices
    for tensor, part in ((values, "values"), (indices, "indices")):
        if is_external(tensor):
            raise InvalidModelError(f"{where} keeps its {part} as external data; store them inside")
        check_tensor(tensor, f"{where}: the tensor of its {part}")
    numbers = numpy_helper.to_array(values)
    places = numpy_helper.to_array(indices)
    values_dims, dims = tensor_dims(values, where), _dims(sparse, where)
    count = math.prod(dims)
    if numbers.dtype == object or count * numbers.itemsize > _MOST_BYTES:
        raise InvalidModelError(f"{where} is too large or not numeric: {list(dims)}")
    if len(values_dims) != 1 or places.dtype != np.int64:
        raise InvalidModelError(f"{where} has no list of values with int64 indices")
    if places.shape == (len(numbers), len(dims)):
        valid = bool(np.all((places >= 0) & (places < np.array(dims, np.int64))))
    else:
        valid = places.shape == numbers.shape and bool(np.all((places >= 0) & (places < count)))
    if not valid:
        raise InvalidModelError(f"{where} has indices outside its dimensions {list(dims)}")
    dense = np.zeros(dims, numbers.dtype)
    if places.ndim == 1:
        dense.reshape(-1)[places] = numbers
    else:
        dense[tuple(places.T)] = numbers
    return numpy_helper.from_array(dense, values.name)


def _dims(sparse: SparseTensorProto, where: str) -> tuple[int, ...]:
    shape = sparse.values.__class__(dims=sparse.dims)
    return tensor_dims(shape, where)
