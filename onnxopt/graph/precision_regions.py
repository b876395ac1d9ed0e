"""In which precision a model computes, region by region, in the order of its nodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import onnx_ir as ir

from onnxopt.graph.integer_kernels import INTEGER_OPERATORS

_QUANTIZE = frozenset({"QuantizeLinear", "DynamicQuantizeLinear"})
_BITS = "bits"


@dataclasses.dataclass(frozen=True)
class Region:
    """Nodes that follow each other and compute in one precision.

    Attributes:
        precision: "int8", "int4 weights", "float16" and so on, or "integers" for shapes and masks.
        first: Name of the first node.
        last: Name of the last one.
        operators: Operator to the number of its nodes.
    """

    precision: str
    first: str
    last: str
    operators: dict[str, int]

    @property
    def nodes(self) -> int:
        """How many nodes."""
        return sum(self.operators.values())


def precision_regions(graph: ir.Graph) -> list[Region]:
    """The regions of a graph; conversions belong to the integer side of a border."""
    regions: list[Region] = []
    for node in graph:
        precision = _precision(node)
        name = node.name or node.op_type
        if regions and regions[-1].precision == precision:
            last = regions[-1]
            counts = dict(last.operators)
            counts[node.op_type] = counts.get(node.op_type, 0) + 1
            regions[-1] = Region(precision, last.first, name, counts)
        else:
            regions.append(Region(precision, name, name, {node.op_type: 1}))
    return regions


def _precision(node: ir.Node) -> str:
    if node.op_type in ("MatMulNBits", "GatherBlockQuantized"):
        bits = node.attributes.get(_BITS)
        return f"int{4 if bits is None else bits.as_int()} weights"
    if node.op_type in INTEGER_OPERATORS or _is_between_conversions(node):
        return "int8"
    types = [value.dtype for value in node.outputs if value.dtype is not None]
    floats = [dtype for dtype in types if dtype.is_floating_point()]
    if floats:
        return {"FLOAT": "float32", "DOUBLE": "float64"}.get(floats[0].name, floats[0].name.lower())
    return "integers" if types else "unknown"


def _is_between_conversions(node: ir.Node) -> bool:
    """True between DequantizeLinear and QuantizeLinear: a runtime fuses the three."""
    producers = [value.producer() for value in node.inputs if value is not None]
    readers = [user for value in node.outputs for user, _ in value.uses()]
    return _any(producers, {"DequantizeLinear"}) and bool(readers) and _all(readers, _QUANTIZE)


def _any(nodes: Iterable[ir.Node | None], operators: Iterable[str]) -> bool:
    return any(node is not None and node.op_type in operators for node in nodes)


def _all(nodes: Iterable[ir.Node], operators: Iterable[str]) -> bool:
    return all(node.op_type in operators for node in nodes)
