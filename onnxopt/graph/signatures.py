"""Nodes of standard operators have the inputs, outputs and attributes that their operator has.

Every runtime refuses others, and no pass has to be ready for a Conv without a weight. Not checked:
attributes that an operator does not know, which some exporters leave behind, and empty names of
inputs that are not optional, as exporters write them for the region of a Resize.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, MutableSequence
from typing import TYPE_CHECKING, Any

import onnx

from onnxopt.core.errors import InvalidModelError
from onnxopt.graph.topology import describe

if TYPE_CHECKING:
    from onnx import NodeProto, OperatorSetIdProto

# Of an opset, as readers store it.
_LARGEST_VERSION = 2**31 - 1
# How a schema says that there is no bound.
_UNBOUNDED = 2**31 - 1
_CONSTANTS = frozenset(
    {
        *("value", "sparse_value", "value_float", "value_floats", "value_int", "value_ints"),
        *("value_string", "value_strings"),
    }
)


@dataclasses.dataclass(frozen=True)
class _Signature:
    inputs: tuple[int, int]
    outputs: tuple[int, int]
    attributes: dict[str, int]
    required: tuple[str, ...]


class Signatures:
    """The operators of one version of the standard.

    Args:
        version: The version that the model, or a function of it, imports.
    """

    def __init__(self, version: int) -> None:
        self._version = version
        self._known: dict[str, _Signature | None] = {}

    def check(self, node: NodeProto, where: str) -> None:
        """Checks a node of the default domain; of an operator that onnx does not know, nothing.

        Empty names at the end, beyond what the operator takes, are removed.

        Raises:
            InvalidModelError: It is not as its operator says.
        """
        op_type = node.op_type
        if op_type not in self._known:
            self._known[op_type] = self._find(op_type)
        signature = self._known[op_type]
        if signature is None:
            return
        self._check_count(node, where, "input", node.input, signature.inputs)
        self._check_count(node, where, "output", node.output, signature.outputs)
        given = set()
        for attribute in node.attribute:
            given.add(attribute.name)
            wanted = signature.attributes.get(attribute.name)
            if wanted is not None and attribute.type != wanted:
                names = onnx.AttributeProto.AttributeType
                raise InvalidModelError(
                    f"node {describe(node)} of {where} has the attribute {attribute.name} as "
                    f"{names.Name(attribute.type)}; {op_type} takes {names.Name(wanted)}"
                )
        missing = [name for name in signature.required if name not in given]
        if missing:
            raise InvalidModelError(
                f"node {describe(node)} of {where} lacks the attribute {missing[0]}"
            )
        if op_type == "Constant" and len(given & _CONSTANTS) != 1:
            raise InvalidModelError(f"node {describe(node)} of {where} has not one value")

    def _check_count(
        self,
        node: NodeProto,
        where: str,
        what: str,
        names: MutableSequence[str],
        bounds: tuple[int, int],
    ) -> None:
        least, most = bounds
        while len(names) > most and not names[-1]:
            del names[-1]
        count = len(names)
        if not least <= count <= most:
            wanted = str(least) if least == most else f"{least} to {most}"
            if most == _UNBOUNDED:
                wanted = f"{least} or more"
            raise InvalidModelError(
                f"node {describe(node)} of {where} has {count} {what}s; "
                f"{node.op_type} of opset {self._version} has {wanted}"
            )

    def _find(self, op_type: str) -> _Signature | None:
        if not onnx.defs.has(op_type, ""):
            return None
        if onnx.defs.has(op_type, self._version, ""):
            schema = onnx.defs.get_schema(op_type, self._version, "")
        else:  # of a later version than the model's: nothing runs it, but passes know its name
            schema = onnx.defs.get_schema(op_type, "")
        return _Signature(
            (schema.min_input, schema.max_input),
            (schema.min_output, schema.max_output),
            {name: _number(attribute.type) for name, attribute in schema.attributes.items()},
            tuple(name for name, attribute in schema.attributes.items() if attribute.required),
        )


def signatures_of(imports: Iterable[OperatorSetIdProto]) -> Signatures:
    """The operators of the version that a model or a function imports.

    Raises:
        InvalidModelError: It imports a version that is none, or two of one domain.
    """
    found: dict[str, int] = {}
    for entry in imports:
        if not 0 < entry.version <= _LARGEST_VERSION:
            of = repr(entry.domain) if entry.domain else "the standard operators"
            raise InvalidModelError(f"it imports version {entry.version} of {of}, which is none")
        domain = "" if entry.domain == "ai.onnx" else entry.domain
        if found.setdefault(domain, entry.version) != entry.version:
            of = repr(domain) if domain else "the standard operators"
            raise InvalidModelError(
                f"it imports two versions of {of}: {found[domain]} and {entry.version}"
            )
    return Signatures(found.get("", 1))


def _number(kind: Any) -> int:
    """The value of onnx's enumeration, whose stub does not know that it has one."""
    return int(kind.value)
