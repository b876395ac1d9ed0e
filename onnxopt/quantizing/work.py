"""How much of a model's work each node does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt.core.walking import all_graphs
from onnxopt.graph.cost import node_flops


def node_works(model: ir.Model, feeds: Mapping[str, Any]) -> dict[str, float]:
    """Operations by name of a node, in all graphs; those of equal names are added up.

    Args:
        model: With inferred shapes, as far as they can be.
        feeds: Inputs, whose shapes say how large symbolic dimensions are.
    """
    sizes = _sizes(model, feeds)
    works: dict[str, float] = {}
    for graph in all_graphs(model):
        for node in graph:
            flops = node_flops(node, sizes)
            if flops is None:  # of unknown shapes: as if every weight were used once
                flops = 2 * max((_elements(value) for value in node.inputs), default=0)
            works[node.name or ""] = works.get(node.name or "", 0.0) + flops
    return works


def _sizes(model: ir.Model, feeds: Mapping[str, Any]) -> dict[str, int]:
    found: dict[str, int] = {}
    for value in model.graph.inputs:
        dims, given = value.shape, np.shape(feeds.get(value.name or "", ()))
        if dims is not None and len(dims) == len(given):
            pairs = zip(dims, given, strict=True)
            found |= {str(dim.value): n for dim, n in pairs if isinstance(dim, ir.SymbolicDim)}
    return found


def _elements(value: ir.Value | None) -> int:
    tensor = None if value is None else value.const_value
    return 0 if tensor is None else math.prod(tensor.shape.numpy())
