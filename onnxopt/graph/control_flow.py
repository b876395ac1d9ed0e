"""Types through If, Loop and Scan: what enters their bodies and what comes out.

A value carried by a loop keeps the dimensions that its body provably preserves. The body is swept
with the initial shape as an assumption; what it changes is forgotten and the body swept again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir

from onnxopt.graph.facts import UNKNOWN, Fact, declared, store
from onnxopt.graph.symbolic import Dim, Symbols
from onnxopt.graph.values import int_attribute, ints_attribute

if TYPE_CHECKING:
    from onnxopt.graph.inference import Inference

_INT64, _BOOL = ir.DataType.INT64.value, ir.DataType.BOOL.value


def visit(
    inference: Inference,
    node: ir.Node,
    graphs: Sequence[ir.Graph],
    inputs: Sequence[Fact | None],
) -> Sequence[Fact]:
    """Sweeps over the subgraphs of a node and gives the facts of its outputs."""
    results = [value for graph in graphs for value in graph.outputs]
    for value in results:
        inference.said.setdefault(value, value.shape)
    facts = _visit(inference, node, graphs, inputs)
    for value in results:
        # What a loop without iterations gives has the shape that its body declares.
        if value.shape is None and value.producer() is not None:
            value.shape = inference.said[value]
    return facts


def _visit(
    inference: Inference,
    node: ir.Node,
    graphs: Sequence[ir.Graph],
    inputs: Sequence[Fact | None],
) -> Sequence[Fact]:
    op_type = "" if node.domain else node.op_type
    if op_type == "If":
        return _visit_if(inference, graphs, len(node.outputs))
    if op_type == "Loop":
        return _visit_loop(inference, node, graphs[0], inputs)
    if op_type == "Scan" and "num_scan_inputs" in node.attributes and inference.opset >= 9:
        return _visit_scan(inference, node, graphs[0], inputs)
    for graph in graphs:
        _sweep_body(inference, graph, [UNKNOWN] * len(graph.inputs))
    return [declared(value, inference.symbols) for value in node.outputs]


def _sweep_body(inference: Inference, graph: ir.Graph, inputs: Sequence[Fact]) -> list[Fact]:
    for value, fact in zip(graph.inputs, inputs, strict=False):
        known = fact
        if fact == UNKNOWN:  # nothing but the element type that the file says is of use
            said = declared(value, inference.symbols)
            known = Fact(said.dtype, None, _without_sizes(said.other))
        inference.facts[value] = known
        store(value, known)
    inference.forget(graph)
    inference.sweep(graph)
    return [inference.facts.get(value, UNKNOWN) for value in graph.outputs]


def _visit_if(inference: Inference, graphs: Sequence[ir.Graph], count: int) -> Sequence[Fact]:
    branches = [_sweep_body(inference, graph, []) for graph in graphs]
    return [
        _joined(
            [branch[i] if i < len(branch) else UNKNOWN for branch in branches], inference.symbols
        )
        for i in range(count)
    ]


def _visit_loop(
    inference: Inference, node: ir.Node, body: ir.Graph, inputs: Sequence[Fact | None]
) -> Sequence[Fact]:
    state = [fact or UNKNOWN for fact in inputs[2:]]
    # Runtimes take a body that declares one element where the specification asks for a scalar.
    head = [
        Fact(dtype, (1,) if value.shape is not None and len(value.shape) == 1 else ())
        for dtype, value in zip((_INT64, _BOOL), body.inputs, strict=False)
    ]
    state, outputs = _carried(inference, body, head, state, [], 1)
    stacked = [
        Fact(
            fact.dtype,
            None if fact.dims is None else (inference.symbols.fresh(), *fact.dims),
            fact.other,
        )
        for fact in outputs[1 + len(state) :]
    ]
    return [*state, *stacked]


def _visit_scan(
    inference: Inference, node: ir.Node, body: ir.Graph, inputs: Sequence[Fact | None]
) -> Sequence[Fact]:
    count = int_attribute(node, "num_scan_inputs", 0)
    carried = len(inputs) - count
    state = [fact or UNKNOWN for fact in inputs[:carried]]
    axes = ints_attribute(node, "scan_input_axes") or (0,) * count
    slices: list[Fact] = []
    length: Dim | None = None
    for fact, axis in zip(inputs[carried:], axes, strict=False):
        if fact is None or not fact.dims:
            slices.append(Fact(0 if fact is None else fact.dtype, None))
            continue
        axis %= len(fact.dims)
        length = fact.dims[axis] if length is None or isinstance(fact.dims[axis], int) else length
        slices.append(Fact(fact.dtype, fact.dims[:axis] + fact.dims[axis + 1 :]))
    state, outputs = _carried(inference, body, [], state, slices, 0)
    scanned = outputs[carried:]
    output_axes = ints_attribute(node, "scan_output_axes") or (0,) * len(scanned)
    stacked = []
    for fact, axis in zip(scanned, output_axes, strict=False):
        dims = fact.dims
        if dims is not None:
            axis %= len(dims) + 1
            dims = (*dims[:axis], length or inference.symbols.fresh(), *dims[axis:])
        stacked.append(Fact(fact.dtype, dims, fact.other))
    return [*state, *stacked]


def _carried(
    inference: Inference,
    body: ir.Graph,
    head: Sequence[Fact],
    state: list[Fact],
    tail: Sequence[Fact],
    first_output: int,
) -> tuple[list[Fact], list[Fact]]:
    """Facts of the carried values that hold in every iteration, and the outputs of the body."""
    while True:
        outputs = _sweep_body(inference, body, [*head, *state, *tail])
        after = outputs[first_output : first_output + len(state)]
        kept = [_kept(old, new) for old, new in zip(state, after, strict=False)]
        if kept == state[: len(kept)]:
            return state, outputs
        # Each round forgets at least one dimension for good, so this ends.
        state = kept + state[len(kept) :]


def _kept(old: Fact, new: Fact) -> Fact:
    """The part of `old` that an iteration preserves."""
    other = old.other if new.other == old.other else _without_sizes(old.other)
    # A fresh symbol for a changed dimension would name a different size in every iteration.
    return Fact(old.dtype, old.dims if new.dims == old.dims else None, other)


def _without_sizes(other: bytes | None) -> bytes | None:
    """The serialized type of a sequence or optional, without the shape of its elements."""
    if other is None:
        return None
    whole = inner = onnx.TypeProto.FromString(other)
    while kind := inner.WhichOneof("value"):
        if kind not in ("sequence_type", "optional_type"):
            break
        inner = getattr(inner, kind).elem_type
    if inner.HasField("tensor_type"):
        inner.tensor_type.ClearField("shape")
    serialized: bytes = whole.SerializeToString()
    return serialized


def _joined(facts: Sequence[Fact], symbols: Symbols) -> Fact:
    """What holds whichever branch is taken."""
    first = facts[0]
    if all(fact == first for fact in facts):
        return first
    dtype = first.dtype if all(fact.dtype == first.dtype for fact in facts) else 0
    shapes = [fact.dims for fact in facts if fact.dims is not None]
    if len(shapes) < len(facts) or any(len(shape) != len(shapes[0]) for shape in shapes):
        return Fact(dtype, None)
    return Fact(
        dtype,
        tuple(
            dims[0] if all(dim == dims[0] for dim in dims) else symbols.fresh()
            for dims in zip(*shapes, strict=True)
        ),
    )
