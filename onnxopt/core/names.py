"""Fresh names: unique over the whole model, so that no subgraph shadows an outer value."""

from __future__ import annotations

import onnx_ir as ir

from onnxopt.core.walking import all_graphs


class Names:
    """The names in use in a model, collected once, and a source of new ones."""

    def __init__(self, model: ir.Model) -> None:
        self._values: set[str] = set()
        self._nodes: set[str] = set()
        self._next: dict[str, int] = {}
        for graph in all_graphs(model):
            self._values.update(value.name or "" for value in graph.inputs)
            self._values.update(graph.initializers)
            for node in graph:
                self._nodes.add(node.name or "")
                self._values.update(value.name or "" for value in node.outputs)

    def unique(self, base: str) -> str:
        """A value name that no value of the model has, equal to `base` where possible."""
        return self._fresh(base, self._values)

    def unique_node(self, base: str) -> str:
        """A node name that no node of the model has, equal to `base` where possible."""
        return self._fresh(base, self._nodes)

    def _fresh(self, base: str, taken: set[str]) -> str:
        name = base
        while name in taken or not name:
            number = self._next.get(base, 0) + 1
            self._next[base] = number
            name = f"{base}_{number}"
        taken.add(name)
        return name
