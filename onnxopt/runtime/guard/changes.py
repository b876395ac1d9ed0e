"""Which nodes a pass without rules changed: what to look at when its result is wrong."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxopt.core.gate import node_label
from onnxopt.core.pipeline import Observer
from onnxopt.core.report import PassRecord
from onnxopt.core.walking import all_bodies

_Signature = tuple[object, ...]


class ChangedNodes(Observer):
    """Collects the names of the nodes that one pass removes or changes.

    Args:
        pass_: The pass as it prints itself.

    Attributes:
        names: Names in graph order, over all runs of the pass.
    """

    def __init__(self, pass_: str) -> None:
        self.names: dict[str, None] = {}
        self._pass = pass_
        self._before: dict[str, _Signature] = {}

    def pass_started(self, names: Sequence[str], model: ir.Model) -> None:
        """Notes what the nodes are."""
        if self._pass in names:
            self._before = _signatures(model)

    def pass_finished(self, record: PassRecord, model: ir.Model) -> None:
        """Compares with what the nodes are now."""
        if record.name == self._pass and record.modified:
            after = _signatures(model)
            changed = (n for n, before in self._before.items() if after.get(n) != before)
            self.names.update(dict.fromkeys(changed))


def _signatures(model: ir.Model) -> dict[str, _Signature]:
    """Node name to all that a pass can change about it."""
    found: dict[str, _Signature] = {}
    for graph in all_bodies(model):
        for node in graph:
            inputs = tuple(
                None if value is None else (value.name, id(value.const_value))
                for value in node.inputs
            )
            attributes = tuple((name, id(attribute)) for name, attribute in node.attributes.items())
            outputs = tuple(value.name for value in node.outputs)
            key = node_label(node)
            found[key] = (node.domain, node.op_type, inputs, attributes, outputs)
    return found
