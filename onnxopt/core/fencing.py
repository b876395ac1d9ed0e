"""Hiding nodes from a pass: while fenced, they are of a domain that no pass knows.

Every pass leaves operators alone that it does not know, so that any pass can be kept from any node
without its help.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import onnx_ir as ir

from onnxopt.core.gate import node_label
from onnxopt.core.walking import all_bodies

_DOMAIN = "onnxopt.fenced:"


@contextmanager
def fenced(model: ir.Model, nodes: Collection[str]) -> Iterator[None]:
    """Hides the nodes of these names, in all graphs, while the context lasts.

    A pass may copy a hidden node: the domain carries the original one, so that copies come back
    as well.
    """
    if not nodes:
        yield
        return
    roots = [model.graph, *(function.graph for function in model.functions.values())]
    imports = {id(root): dict(root.opset_imports) for root in roots}
    for graph in all_bodies(model):
        for node in graph:
            if node_label(node) in nodes:
                node.domain = _DOMAIN + node.domain
    try:
        yield
    finally:
        for graph in all_bodies(model):
            for node in graph:
                if node.domain.startswith(_DOMAIN):
                    node.domain = node.domain.removeprefix(_DOMAIN)
        # A pass that removes unused imports did not see that the hidden nodes use theirs.
        for root in [model.graph, *(function.graph for function in model.functions.values())]:
            for domain, version in imports.get(id(root), {}).items():
                root.opset_imports.setdefault(domain, version)
