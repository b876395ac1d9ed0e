"""From a ModelProto to an ir.Model, with what onnx_ir cannot hold put into a form that it can.

- Sparse tensors become dense, within a limit.
- Types that onnx_ir has no class for (maps, opaque types) are left out of the ir.Value and kept in
  its `meta` under `TYPE_KEY`, from where saving writes them back.
- External data becomes `MappedTensor`s, wherever it is: initializers, attributes, subgraphs,
  functions.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import onnx_ir as ir

from onnxopt.core.errors import InvalidModelError
from onnxopt.graph.external import ExternalData, map_proto
from onnxopt.graph.attributes import map_attributes
from onnxopt.graph.mapped import DataFile, MappedTensor
from onnxopt.graph.skeleton import Cut
from onnxopt.graph.sparse import make_dense
from onnxopt.graph.structure import check_structure
from onnxopt.graph.tensor_data import is_external
from onnxopt.graph.topology import subgraphs

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TypeProto

logger = logging.getLogger(__name__)

TYPE_KEY: Final = "onnxopt.type_proto"
"""Key in `ir.Value.meta` of a serialized TypeProto that onnx_ir cannot represent."""

_FIRST_WITH_OPSETS = 3  # IR versions
_FIRST_WITH_FREE_INITIALIZERS = 4  # that need not be graph inputs as well


def model_from_proto(
    proto: ModelProto,
    *,
    file: DataFile | None = None,
    cuts: Mapping[int, Cut] | None = None,
    external: ExternalData | None = None,
) -> ir.Model:
    """Checks a model message and converts it. The message belongs to the model afterwards.

    Args:
        proto: The model. It may be changed.
        file: The model file, if weights were cut out of the message.
        cuts: Index of a main-graph initializer to the range of its data in `file`.
        external: Where external data comes from; by default a model must have none.

    Raises:
        InvalidModelError: What is wrong with the model.
    """
    cuts = cuts or {}
    if not proto.HasField("graph"):
        raise InvalidModelError("it holds no graph; is it an ONNX model?")
    if proto.training_info:
        logger.warning("the training information of the model is left out")
    make_dense(proto)
    lengths = {index: cut.length for index, cut in cuts.items()}
    found = check_structure(proto, lengths)
    _complete_versions(proto)
    external = external or ExternalData(None)
    outside = [external.tensor(tensor, where) for tensor, where in found]
    inside: dict[str, MappedTensor] = {}
    for index, cut in cuts.items():
        tensor = proto.graph.initializer[index]
        if file is not None and tensor.name and not is_external(tensor):
            inside[tensor.name] = map_proto(file, cut.offset, tensor)
    types = _take_unsupported_types(proto)
    model = _deserialize(proto)
    for name, mapped in inside.items():
        model.graph.initializers[name].const_value = mapped
    if outside:
        _replace_external(model, outside)
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.name in types:
            value.meta[TYPE_KEY] = types[value.name]
    return model


def _deserialize(proto: ModelProto) -> ir.Model:
    try:
        with _no_garbage_collection():
            return ir.from_proto(proto)
    except ir.serde.SerdeError as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = " ".join(str(cause).split())
        raise InvalidModelError(f"it is not a valid ONNX model: {reason[:200]}") from error


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    # A graph is built of millions of objects none of which is garbage; looking for it among them
    # takes a quarter of the time.
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _complete_versions(proto: ModelProto) -> None:
    """Gives a model of the first days the versions that readers of today insist on."""
    default = [entry for entry in proto.opset_import if entry.domain in ("", "ai.onnx")]
    for entry in default:
        entry.domain = ""  # one name for one domain
    if not default and _uses_default_domain(proto):
        if proto.ir_version >= _FIRST_WITH_OPSETS:
            raise InvalidModelError(
                "it uses standard operators but imports no version of them (opset_import)"
            )
        proto.opset_import.add(domain="", version=1)
    if proto.ir_version < _FIRST_WITH_OPSETS:
        inputs = {value.name for value in proto.graph.input}
        complete = all(tensor.name in inputs for tensor in proto.graph.initializer)
        proto.ir_version = _FIRST_WITH_OPSETS if complete else _FIRST_WITH_FREE_INITIALIZERS


def _uses_default_domain(proto: ModelProto) -> bool:
    pending = list(proto.graph.node)
    while pending:
        node = pending.pop()
        if node.domain in ("", "ai.onnx"):
            return True
        for graph in subgraphs(node):
            pending += graph.node
    return False


def _take_unsupported_types(proto: ModelProto) -> dict[str, bytes]:
    """Clears types that onnx_ir cannot hold; returns those of the main graph's interface."""
    taken: dict[str, bytes] = {}
    for value in (*proto.graph.input, *proto.graph.output):
        if not _is_supported(value.type):
            taken[value.name] = value.type.SerializeToString()
    graphs: list[GraphProto] = [proto.graph]
    nodes: list[NodeProto] = [node for function in proto.functions for node in function.node]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            nodes += graph.node
            for values in (graph.input, graph.output, graph.value_info):
                for value in values:
                    if not _is_supported(value.type):
                        value.ClearField("type")
        else:
            graphs += subgraphs(nodes.pop())
    for function in proto.functions:
        for value in function.value_info:
            if not _is_supported(value.type):
                value.ClearField("type")
    return taken


def _is_supported(value_type: TypeProto) -> bool:
    while True:
        kind = value_type.WhichOneof("value")
        if kind in ("sequence_type", "optional_type"):
            value_type = getattr(value_type, kind).elem_type
            if value_type.WhichOneof("value") is None:
                return False
        else:
            return kind in (None, "tensor_type", "sparse_tensor_type")


def _replace_external(model: ir.Model, tensors: Sequence[MappedTensor]) -> None:
    """Puts mapped tensors where `check_structure` left their index as a location."""

    def mapped(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        if isinstance(tensor, ir.ExternalTensor):
            return tensors[int(tensor.location)]
        return tensor

    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                value.const_value = mapped(value.const_value)
        for node in graph:
            map_attributes(node, mapped)
