"""A model as the pieces of its file: the graph as bytes, each large weight as a tensor to stream.

onnx_ir serializes a model into one protobuf message with every weight in it. Here it gets the graph
without its initializers; `ModelParts` holds a record per initializer, and the length of everything
is known before a byte of a weight is read. The initializers get no value_info, which would only
repeat their type and shape.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, cast

import onnx_ir as ir

from onnxopt.core.errors import SaveError
from onnxopt.core.walking import all_bodies
from onnxopt.graph.attributes import map_attributes
from onnxopt.graph.mapped import byte_chunks, stored_bytes
from onnxopt.graph.skeleton import GRAPH_INITIALIZER, MODEL_GRAPH
from onnxopt.graph.unsupported_types import restore_types
from onnxopt.graph.wire import length_delimited

if TYPE_CHECKING:
    from onnx import GraphProto, TensorProto

_TENSOR_RAW_DATA: Final = 9
_QUANTIZATION_KEY: Final = "quant_parameter_tensor_names"  # where onnx_ir keeps annotations
# Smaller tensors are copied into the message; a record of their own would cost more.
STREAMED_BYTES: Final = 1024


@dataclasses.dataclass
class Record:
    """One initializer.

    Attributes:
        proto: The TensorProto; without data if `tensor` is set.
        tensor: The tensor whose data is to be streamed.
        nbytes: Length of that data.
    """

    proto: TensorProto
    tensor: ir.TensorProtocol | None = None
    nbytes: int = 0

    def head(self) -> bytes:
        """Everything of the initializer field but the streamed data."""
        body: bytes = self.proto.SerializeToString()
        if self.tensor is None:
            return length_delimited(GRAPH_INITIALIZER, len(body)) + body
        body += length_delimited(_TENSOR_RAW_DATA, self.nbytes)
        return length_delimited(GRAPH_INITIALIZER, len(body) + self.nbytes) + body


@dataclasses.dataclass
class ModelParts:
    """A model file in pieces.

    Attributes:
        head: Fields of the ModelProto other than the graph.
        graph: Fields of the GraphProto other than the initializers.
        records: The initializers.
    """

    head: bytes
    graph: bytes
    records: list[Record]

    def heads(self) -> list[tuple[bytes, Record]]:
        """What comes before the streamed data of each initializer."""
        return [(record.head(), record) for record in self.records]

    def graph_bytes(self) -> int:
        """Length of the graph field's content."""
        return len(self.graph) + sum(
            len(head) + (record.nbytes if record.tensor is not None else 0)
            for head, record in self.heads()
        )

    def chunks(self) -> Iterator[bytes | memoryview]:
        """The file, piece by piece."""
        yield self.head
        yield length_delimited(MODEL_GRAPH, self.graph_bytes())
        yield self.graph
        for head, record in self.heads():
            yield head
            if record.tensor is not None:
                yield from data_chunks(record)


def data_chunks(record: Record) -> Iterator[memoryview]:
    """The data of a streamed initializer.

    Raises:
        SaveError: There is more or less of it than the shape says.
    """
    written = 0
    assert record.tensor is not None
    for chunk in byte_chunks(record.tensor):
        written += len(chunk)
        if written > record.nbytes:
            break
        yield chunk
    if written != record.nbytes:
        raise SaveError(
            f"initializer {record.proto.name!r} does not hold the {record.nbytes} bytes that its "
            "type and shape need; the model is not saved"
        )


def split_model(model: ir.Model) -> ModelParts:
    """Serializes a model without reading its large weights.

    Raises:
        SaveError: The model cannot be serialized.
    """
    import onnx
    from google.protobuf.message import EncodeError  # type: ignore[import-untyped]

    model = _without_inner_references(model)
    proto = onnx.ModelProto()
    try:
        view = cast("ir.Model", _Without(model, graph=_Without(model.graph, initializers={})))
        ir.serde.serialize_model_into(proto, view)
        restore_types(model.graph, proto.graph)
        _annotate_initializers(model.graph, proto.graph)
        records = [_record(value) for value in model.graph.initializers.values()]
        graph = proto.graph.SerializeToString()
        proto.ClearField("graph")
        return ModelParts(proto.SerializeToString(), graph, records)
    except (ir.serde.SerdeError, EncodeError, ValueError, TypeError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = " ".join(str(cause).split())
        raise SaveError(f"the model cannot be serialized: {reason[:200]}") from error


class _Without:
    """An object with some attributes replaced, which leaves the object itself alone."""

    def __init__(self, target: Any, **replaced: Any) -> None:
        self._target = target
        self.__dict__.update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._target)

    def __len__(self) -> int:
        return len(self._target)


def _record(value: ir.Value) -> Record:
    import onnx

    tensor = value.const_value
    if tensor is None:
        raise SaveError(f"initializer {value.name!r} has no value")
    proto = onnx.TensorProto()
    if tensor.dtype == ir.DataType.STRING or (
        tensor.nbytes < STREAMED_BYTES and not isinstance(tensor, ir.ExternalTensor)
    ):
        _fill(proto, tensor)
        proto.name = value.name or ""
        return Record(proto)
    dims = tuple(tensor.shape.numpy())
    proto.dims.extend(dims)
    proto.data_type = tensor.dtype.value
    proto.name = value.name or ""
    if tensor.doc_string:
        proto.doc_string = tensor.doc_string
    for key in sorted(tensor.metadata_props):
        proto.metadata_props.add(key=key, value=tensor.metadata_props[key])
    return Record(proto, tensor, stored_bytes(tensor.dtype, dims))


def _fill(proto: TensorProto, tensor: ir.TensorProtocol) -> None:
    if isinstance(tensor, ir.serde.TensorProtoTensor):
        proto.CopyFrom(tensor.raw)  # onnx_ir would write its metadata twice
    else:
        ir.serde.serialize_tensor_into(proto, tensor)


def _annotate_initializers(graph: ir.Graph, proto: GraphProto) -> None:
    """Writes what an initializer's value holds beyond its tensor."""
    for value in graph.initializers.values():
        if value.is_graph_input():
            continue  # done with the inputs
        if value.metadata_props or value.doc_string:
            ir.serde.serialize_value_into(proto.value_info.add(), value)
        parameters = value.meta.get(_QUANTIZATION_KEY)
        if parameters:
            annotation = proto.quantization_annotation.add(tensor_name=value.name)
            for key in sorted(parameters):
                annotation.quant_parameter_tensor_names.add(key=key, value=parameters[key])


def _without_inner_references(model: ir.Model) -> ir.Model:
    """The model, or a clone whose subgraphs and attributes refer to no external data.

    Only models that onnx_ir loaded itself have such references: relative to a folder that need not
    be the one that the model is saved to.
    """
    if not any(_inner_references(model)):
        return model
    clone = model.clone()

    def inside(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        if isinstance(tensor, ir.ExternalTensor):
            return ir.Tensor(tensor.numpy(), tensor.dtype, name=tensor.name)
        return tensor

    for graph in all_bodies(clone):
        if graph is not clone.graph:
            for value in graph.initializers.values():
                if value.const_value is not None:
                    value.const_value = inside(value.const_value)
        for node in graph:
            map_attributes(node, inside)
    return clone


def _inner_references(model: ir.Model) -> Iterator[bool]:
    for graph in all_bodies(model):
        if graph is not model.graph:
            for value in graph.initializers.values():
                yield isinstance(value.const_value, ir.ExternalTensor)
        for node in graph:
            for attribute in node.attributes.values():
                if attribute.is_ref():
                    continue
                if attribute.type == ir.AttributeType.TENSOR:
                    yield isinstance(attribute.value, ir.ExternalTensor)
                elif attribute.type == ir.AttributeType.TENSORS:
                    yield any(isinstance(t, ir.ExternalTensor) for t in attribute.value)
