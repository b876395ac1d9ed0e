"""From a ModelProto to a checked ir.Model whose large and external tensors stay in their files.

External data is found wherever it is: in initializers, attributes, subgraphs and functions.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir

from onnxopt.core.errors import InvalidModelError
from onnxopt.core.walking import all_bodies
from onnxopt.graph.attributes import map_attributes
from onnxopt.graph.external import ExternalData, map_proto
from onnxopt.graph.mapped import DataFile, MappedTensor
from onnxopt.graph.skeleton import Cut
from onnxopt.graph.structure import check_structure
from onnxopt.graph.tensor_data import is_external
from onnxopt.graph.unsupported_types import TYPE_KEY

if TYPE_CHECKING:
    from onnx import ModelProto

logger = logging.getLogger(__name__)

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
    lengths = {index: cut.length for index, cut in cuts.items()}
    found = check_structure(proto, lengths)
    _complete_versions(proto, uses_default_domain=found.default_domain)
    external = external or ExternalData(None)
    outside = [external.tensor(tensor, where) for tensor, where in found.external]
    inside: dict[str, MappedTensor] = {}
    for index, cut in cuts.items():
        tensor = proto.graph.initializer[index]
        if file is not None and tensor.name and not is_external(tensor):
            inside[tensor.name] = map_proto(file, cut.offset, tensor)
    model = _deserialize(proto)
    for name, mapped in inside.items():
        model.graph.initializers[name].const_value = mapped
    if outside:
        _replace_external(model, outside)
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.name in found.types:
            value.meta[TYPE_KEY] = found.types[value.name]
    return model


def _deserialize(proto: ModelProto) -> ir.Model:
    try:
        return ir.from_proto(proto)
    except ir.serde.SerdeError as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = " ".join(str(cause).split())
        raise InvalidModelError(f"it is not a valid ONNX model: {reason[:200]}") from error


def _complete_versions(proto: ModelProto, *, uses_default_domain: bool) -> None:
    """Gives a model of the first days the versions that readers of today insist on."""
    default = [entry for entry in proto.opset_import if entry.domain in ("", "ai.onnx")]
    for entry in default:
        entry.domain = ""  # one name for one domain
    if not default and uses_default_domain:
        if proto.ir_version >= _FIRST_WITH_OPSETS:
            raise InvalidModelError(
                "it uses standard operators but imports no version of them (opset_import)"
            )
        proto.opset_import.add(domain="", version=1)
    if proto.ir_version < _FIRST_WITH_OPSETS:
        inputs = {value.name for value in proto.graph.input}
        complete = all(tensor.name in inputs for tensor in proto.graph.initializer)
        proto.ir_version = _FIRST_WITH_OPSETS if complete else _FIRST_WITH_FREE_INITIALIZERS


def _replace_external(model: ir.Model, tensors: Sequence[MappedTensor]) -> None:
    """Puts mapped tensors where `check_structure` left their index as a location."""

    def mapped(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        if isinstance(tensor, ir.ExternalTensor):
            return tensors[int(os.fspath(tensor.location))]
        return tensor

    for graph in all_bodies(model):
        for value in graph.initializers.values():
            if value.const_value is not None:
                value.const_value = mapped(value.const_value)
        for node in graph:
            map_attributes(node, mapped)
