"""The same weight stored twice.

    w1 = [..], w2 = [..] with equal type, shape and bytes   -> every user of w2 reads w1
    w in the main graph, w' = w in a branch                 -> the branch reads w
    w in both branches of an If                             -> w in the graph around the If

Bytes are compared, not numbers: -0.0 is not 0.0, and NaNs keep their payloads. Of all tensors with
the same type and shape first the leading bytes are compared, and only those that agree there are
hashed, in chunks: memory stays bounded and most weights are never read.

Refused: an initializer that is also a graph input, whose value the caller may replace; one that is
a graph output, which needs its own name. Subgraphs keep their own copies of tensors with less than
1 KiB, because runtimes look for small constants next to their users. Functions hold none.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import ClassVar

import onnx_ir as ir

from onnxopt.core.names import Names
from onnxopt.core.passes import Pass, PassResult, Refusal
from onnxopt.core.walking import enclosing_graphs
from onnxopt.graph.mapped import byte_chunks

_RULE = "duplicate-initializer"
_SAMPLE_BYTES = 4096
_SHARED_ACROSS_GRAPHS_BYTES = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeduplicateInitializers(Pass):
    """Stores weights that are equal bit by bit only once."""

    name: ClassVar[str] = "deduplicate-initializers"
    claims_speed: ClassVar[bool] = False

    def call(self, model: ir.Model) -> PassResult:
        """Compares all initializers of the main graph and its subgraphs."""
        parents = _parents(model.graph)
        values = [value for graph in parents for value in graph.initializers.values()]
        result = PassResult(model)
        names: Names | None = None
        rewrites: Counter[str] = Counter()
        for equal in _equal_groups(values):
            kept: list[ir.Value] = []
            for value in equal:
                if value.is_graph_input() or value.is_graph_output():
                    result.refusals.append(Refusal(_RULE, value.name or "", _reason(value)))
                    continue
                twin = next((other for other in kept if _can_read(value, other, parents)), None)
                if twin is None and kept and _is_worth_lifting(value):
                    names = names or Names(model)
                    twin = kept.pop(0)
                    _lift(twin, _common_graph(twin, value, parents), names)
                    kept.insert(0, twin)
                if twin is None:
                    kept.append(value)
                    continue
                _replace(value, twin)
                rewrites[_RULE] += 1
        return PassResult(model, rewrites, result.refusals)


def _reason(value: ir.Value) -> str:
    if value.is_graph_input():
        return "it equals another initializer, but is a graph input that the caller may replace"
    return "it equals another initializer, but is a graph output"


def _equal_groups(values: Iterable[ir.Value]) -> Iterator[list[ir.Value]]:
    """Initializers that hold the same bytes, two or more at a time, each in model order."""
    for alike in _grouped(values, _type_and_shape):
        for same_start in _grouped(alike, _leading_bytes):
            yield from _grouped(same_start, _digest)


def _grouped(
    values: Iterable[ir.Value], key: Callable[[ir.TensorProtocol], Hashable]
) -> Iterator[list[ir.Value]]:
    groups: dict[Hashable, list[ir.Value]] = {}
    keys: dict[int, Hashable] = {}
    for value in values:
        tensor = value.const_value
        if tensor is not None:
            if id(tensor) not in keys:
                keys[id(tensor)] = key(tensor)
            groups.setdefault(keys[id(tensor)], []).append(value)
    return (group for group in groups.values() if len(group) > 1)


def _type_and_shape(tensor: ir.TensorProtocol) -> Hashable:
    return tensor.dtype, tuple(tensor.shape.numpy())


def _leading_bytes(tensor: ir.TensorProtocol) -> Hashable:
    if tensor.dtype == ir.DataType.STRING:
        return tuple(tensor.numpy().reshape(-1)[:_SAMPLE_BYTES])
    chunks = byte_chunks(tensor, _SAMPLE_BYTES)
    sample = bytes(next(chunks, b""))
    next(chunks, None)  # Gives the memory of the first one back.
    return sample


def _digest(tensor: ir.TensorProtocol) -> Hashable:
    if tensor.dtype == ir.DataType.STRING:
        return tuple(tensor.numpy().reshape(-1))
    digest = hashlib.sha256()
    for chunk in byte_chunks(tensor):
        digest.update(chunk)
    return digest.digest()


def _parents(root: ir.Graph) -> dict[ir.Graph, ir.Graph | None]:
    """Every graph with the one around it."""
    return {graph: around and around.graph for graph, around in enclosing_graphs(root)}


def _chain(
    graph: ir.Graph | None, parents: Mapping[ir.Graph, ir.Graph | None]
) -> Iterator[ir.Graph]:
    while graph is not None:
        yield graph
        graph = parents[graph]


def _is_worth_lifting(value: ir.Value) -> bool:
    return value.const_value is not None and value.const_value.nbytes >= _SHARED_ACROSS_GRAPHS_BYTES


def _can_read(
    value: ir.Value, other: ir.Value, parents: Mapping[ir.Graph, ir.Graph | None]
) -> bool:
    """True if users of `value` may read `other`: it is in the same or, if large, an outer graph."""
    if other.graph is value.graph:
        return True
    return _is_worth_lifting(value) and other.graph in set(_chain(value.graph, parents))


def _common_graph(
    one: ir.Value, other: ir.Value, parents: Mapping[ir.Graph, ir.Graph | None]
) -> ir.Graph:
    around = set(_chain(one.graph, parents))
    return next(graph for graph in _chain(other.graph, parents) if graph in around)


def _lift(value: ir.Value, graph: ir.Graph, names: Names) -> None:
    """Moves an initializer to a graph around its own; no name there may hide it."""
    assert value.graph is not None
    assert value.name is not None
    value.graph.initializers.pop(value.name)
    value.name = names.unique(value.name)
    graph.register_initializer(value)


def _replace(value: ir.Value, twin: ir.Value) -> None:
    assert value.graph is not None
    assert value.name is not None
    value.replace_all_uses_with(twin)
    value.graph.initializers.pop(value.name)
