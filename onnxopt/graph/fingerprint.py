"""A hash of a model: of its graphs and of every weight."""

from __future__ import annotations

import hashlib

import onnx_ir as ir

from onnxopt.core.walking import all_bodies
from onnxopt.graph.mapped import byte_chunks
from onnxopt.graph.tensors import all_tensors


def fingerprint(model: ir.Model) -> str:
    """A hash that another model, or the same one with other weights, does not have.

    Names of values count, for what is recorded about a model is recorded by name. Metadata, doc
    strings and inferred types do not.
    """
    digest = hashlib.blake2b(digest_size=16)
    for graph in all_bodies(model):
        names = [value.name for value in (*graph.inputs, *graph.outputs)]
        digest.update(repr((names, list(graph.initializers))).encode())
        for node in graph:
            attributes = sorted(
                (name, "" if attribute.type in _HASHED_APART else str(attribute.value))
                for name, attribute in node.attributes.items()
            )
            ends = [None if value is None else value.name for value in node.inputs]
            outputs = [value.name for value in node.outputs]
            digest.update(repr((node.domain, node.op_type, ends, outputs, attributes)).encode())
    for tensor in all_tensors(model):
        digest.update(repr((tensor.dtype.name, list(tensor.shape.numpy()))).encode())
        if tensor.dtype == ir.DataType.STRING:
            digest.update(repr(tensor.numpy().tolist()).encode())
            continue
        for chunk in byte_chunks(tensor):
            digest.update(chunk)
    return digest.hexdigest()


# Graphs are walked and tensors read by themselves.
_HASHED_APART = frozenset(
    {
        *(ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS),
        *(ir.AttributeType.TENSOR, ir.AttributeType.TENSORS),
    }
)
