"""Names of nodes: every node has one of its own, and globs of the user's find them."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

import onnx_ir as ir

from onnxopt.core.errors import InvalidInputError
from onnxopt.core.names import Names
from onnxopt.core.provenance import sources_of
from onnxopt.core.walking import all_graphs


def name_nodes(model: ir.Model) -> None:
    """Gives every node of all graphs a name of its own."""
    names = Names(model)
    seen: set[str] = set()
    for graph in all_graphs(model):
        for node in graph:
            if not node.name or node.name in seen:
                output = node.outputs[0].name if node.outputs else ""
                node.name = names.unique_node(node.name or output or node.op_type)
            seen.add(node.name)


def excluded_names(model: ir.Model, globs: Sequence[str]) -> list[str]:
    """Names of the nodes that globs match, by their own name or that of what they come from.

    Raises:
        InvalidInputError: A glob matches nothing.
    """
    found: dict[str, None] = {}
    for glob in globs:
        matched = [
            node.name or ""
            for graph in all_graphs(model)
            for node in graph
            if any(fnmatch.fnmatchcase(n, glob) for n in (node.name or "", *sources_of(node)))
            or node.op_type == glob
        ]
        if not matched:
            raise InvalidInputError(
                f"--exclude {glob!r} matches no node; `onnxopt inspect MODEL -v` lists their names"
            )
        found.update(dict.fromkeys(matched))
    return list(found)
