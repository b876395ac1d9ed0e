"""Inside of If, Loop and Scan: a body as a model of its own, fed with what it is fed in the graph.

Of an If it is the branch that the original takes, of a Loop the first iteration, of a Scan the
first slice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt.core.walking import graph_tree, subgraphs_of, used_values
from onnxopt.graph.values import constant, int_attribute, ints_attribute, opset_version
from onnxopt.runtime.diagnosis.paired_values import PairedValues
from onnxopt.runtime.diagnosis.probing import Arrays, Probe
from onnxopt.runtime.diagnosis.regions import Region, described


@dataclasses.dataclass(frozen=True)
class Body:
    """The same body in both models.

    Attributes:
        place: Where it is, as "If 'gate', then_branch".
        original: The original's.
        rewritten: What became of it.
        feeds: What both are fed.
    """

    place: str
    original: ir.Model
    rewritten: ir.Model
    feeds: Arrays


def bodies_in(original: Region, rewritten: Region, pairs: PairedValues) -> Iterator[Body]:
    """The bodies of the control flow in a region that can be run by themselves.

    Raises:
        CannotRunError: ONNX Runtime refuses what the bodies are fed from.
    """
    for node in rewritten.nodes:
        if not subgraphs_of(node):
            continue
        alike = [n for n in original.nodes if n.op_type == node.op_type]
        like = next((n for n in alike if n.name == node.name), alike[0] if alike else None)
        body = None if like is None else _body(like, node, pairs)
        if body is not None:
            yield body


def _body(like: ir.Node, node: ir.Node, pairs: PairedValues) -> Body | None:
    values = _read(like, pairs.one, pairs.feeds)
    if values is None:
        return None
    arrays = [None if v is None else values[v] for v in like.inputs]
    name = "body"
    if node.op_type == "If":
        name = "then_branch" if np.all(arrays[0]) else "else_branch"
    graphs = [one.attributes[name].as_graph() for one in (like, node)]
    first = _first_inputs(like, arrays, pairs.one.model)
    if first is None or any(len(graph.inputs) != len(first) for graph in graphs):
        return None
    feeds = {value.name or "": array for value, array in values.items()}
    for graph in graphs:
        feeds |= {v.name or "": array for v, array in zip(graph.inputs, first, strict=True)}
    # What the body reads from outside may have another name there.
    missing = []
    for value in used_values(node):
        outer = pairs.likes.get(value.name or "", value.name)
        if outer in feeds:
            feeds[value.name or ""] = feeds[outer or ""]
        elif constant(value) is None:
            missing.append(value.name or "")
    if any(name not in pairs.other.values for name in missing):
        return None
    if missing:
        feeds |= pairs.other.fetch(missing, pairs.feeds)
    place = f"{described(node)}, {name}"
    models = [
        _as_model(graph, probe.model, feeds)
        for graph, probe in zip(graphs, (pairs.one, pairs.other), strict=True)
    ]
    return Body(place, models[0], models[1], feeds)


def _read(node: ir.Node, probe: Probe, feeds: Mapping[str, Any]) -> dict[ir.Value, Any] | None:
    """All that a node and its bodies read; None if a part of it is no tensor."""
    found: dict[ir.Value, Any] = {}
    computed = []
    for value in used_values(node):
        array = constant(value)
        if (value.name or "") in feeds:
            found[value] = feeds[value.name or ""]
        elif array is not None:
            found[value] = array
        elif value.name in probe.values:
            computed.append(value)
        else:
            return None
    if computed:
        arrays = probe.fetch([value.name or "" for value in computed], feeds)
        found |= {value: arrays[value.name or ""] for value in computed}
    return found


def _first_inputs(node: ir.Node, arrays: list[Any], model: ir.Model) -> list[Any] | None:
    """What the body is given the first time; None if it is not run."""
    if node.op_type == "If":
        return []
    if node.op_type == "Loop":
        limit, condition, *states = arrays
        if (limit is not None and int(limit) < 1) or (condition is not None and not condition):
            return None
        return [np.array(0, np.int64), np.array(True), *states]
    count = int_attribute(node, "num_scan_inputs", 0)
    if node.op_type != "Scan" or opset_version(node, model) < 9 or not 0 < count <= len(arrays):
        return None
    axes = ints_attribute(node, "scan_input_axes") or (0,) * count
    backwards = ints_attribute(node, "scan_input_directions") or (0,) * count
    states, scanned = arrays[:-count], arrays[-count:]
    if any(array.shape[axis] == 0 for array, axis in zip(scanned, axes, strict=True)):
        return None
    slices = [
        np.take(array, -1 if back else 0, axis=axis)
        for array, axis, back in zip(scanned, axes, backwards, strict=True)
    ]
    return [*states, *slices]


def _as_model(graph: ir.Graph, model: ir.Model, feeds: Mapping[str, Any]) -> ir.Model:
    """A body as a model; what it reads from outside becomes an input or, if constant, a weight."""
    body = graph.clone(allow_outer_scope_values=True)
    inner = set(graph_tree(body))
    stand_ins: dict[ir.Value, ir.Value] = {}

    def inside(value: ir.Value) -> ir.Value:
        if value.graph in inner:
            return value
        if value not in stand_ins:
            stand_ins[value] = _stand_in(value, body, feeds)
        return stand_ins[value]

    for one in inner:
        for node in one:
            for index, value in enumerate(node.inputs):
                if value is not None and value.graph not in inner:
                    node.replace_input_with(index, inside(value))
        for index, value in enumerate(one.outputs):
            if value.graph not in inner:
                one.outputs[index] = inside(value)
    for value in body.inputs:
        value.type = value.type or _type_of(feeds.get(value.name or ""))
        value.shape = None  # what is declared of a body's inputs is often too narrow
    body.name = body.name or "body"
    body.opset_imports.update(model.opset_imports)
    functions = [function.clone() for function in model.functions.values()]
    return ir.Model(body, ir_version=model.ir_version, functions=functions)


def _stand_in(value: ir.Value, body: ir.Graph, feeds: Mapping[str, Any]) -> ir.Value:
    tensor = value.const_value
    if constant(value) is None:
        stand_in = ir.Value(
            name=value.name, type=value.type or _type_of(feeds.get(value.name or ""))
        )
        body.inputs.append(stand_in)
        return stand_in
    if tensor is None:
        tensor = ir.convenience.get_const_tensor(value)
    stand_in = ir.Value(name=value.name, type=value.type, shape=value.shape, const_value=tensor)
    body.initializers[value.name or ""] = stand_in
    return stand_in


def _type_of(array: Any) -> ir.TypeProtocol | None:
    dtype = getattr(array, "dtype", None)
    return None if dtype is None else ir.TensorType(ir.DataType.from_numpy(dtype))
