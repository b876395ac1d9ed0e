"""Which operators of a model have a schema, here or as a function of the model."""

from __future__ import annotations

from collections import Counter

import onnx
import onnx_ir as ir

from onnxopt.core.walking import all_graphs
from onnxopt.graph.contrib import is_contrib

# Domains whose operators ONNX Runtime brings along without schemas that onnx knows.
_RUNTIME_DOMAINS = frozenset({"com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc"})


def unknown_operators(model: ir.Model) -> Counter[str]:
    """`domain::OpType` of every operator that neither onnx nor the model defines, with counts.

    Operators of ONNX Runtime's own domains are not listed: it runs them, whether or not a rewrite
    here knows them.
    """
    unknown: Counter[str] = Counter()
    cache: dict[tuple[str, str, str], bool] = {}
    for graph in all_graphs(model):
        for node in graph:
            key = node.op_identifier()
            if key not in cache:
                cache[key] = key in model.functions or _has_schema(node, model)
            if not cache[key]:
                unknown[f"{node.domain or 'ai.onnx'}::{node.op_type}"] += 1
    return unknown


def _has_schema(node: ir.Node, model: ir.Model) -> bool:
    if node.domain in _RUNTIME_DOMAINS or is_contrib(node.domain, node.op_type):
        return True
    version = model.opset_imports.get(node.domain, 1)
    return bool(onnx.defs.has(node.op_type, max_inclusive_version=version, domain=node.domain))


def newest_opset() -> int:
    """The newest version of the default domain that the installed onnx knows."""
    return int(onnx.defs.onnx_opset_version())
