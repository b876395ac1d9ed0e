"""Why a part of a graph computes something else: its nodes and weights beside the original's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from onnxopt.core.provenance import rules_of
from onnxopt.graph.values import constant, opset_version
from onnxopt.runtime.regions import Region
from onnxopt.runtime.relations import relation

_MOST = 4  # causes told; one fault rarely has more
_CLOSE = 1e-6
_COMMUTATIVE = frozenset(("Add", "Mul", "And", "Or", "Xor", "Equal", "Max", "Min", "Sum", "Mean"))


def graph_causes(
    original: Region, rewritten: Region, models: tuple[ir.Model, ir.Model]
) -> list[str]:
    """What differs between two regions that should compute the same, in sentences.

    Args:
        original: The nodes of the original.
        rewritten: The nodes in their place.
        models: The models that they are part of.
    """
    pairs, missing, added = _paired(original.nodes, rewritten.nodes)
    causes: dict[str, None] = {}
    for one, other in pairs:
        for cause in (*_attributes(one, other, models), *_inputs(one, other)):
            causes[f"{_label(other)}: {cause}"] = None
    if not any(rules_of(node) for node in rewritten.nodes):
        causes.update({f"missing: {_label(node)}": None for node in missing})
        causes.update({f"added: {_label(node)}": None for node in added})
    for name, array in _weights(rewritten).items():
        before = _weights(original).get(name)
        words = "" if before is None else relation(before, array)
        if words and not any(f"{name!r} is " in cause for cause in causes):
            causes[f"{name!r} is {words}"] = None
    return list(causes)[:_MOST]


def saturation(region: Region, feeds: dict[str, NDArray[Any]]) -> Iterator[str]:
    """QuantizeLinear nodes whose range is too small for what they get in the original."""
    for node in region.nodes:
        if node.op_type != "QuantizeLinear" or node.inputs[0] is None:
            continue
        x = feeds.get(node.inputs[0].name or "")
        scale = constant(node.inputs[1])
        zero = constant(node.inputs[2]) if len(node.inputs) > 2 else np.zeros((), np.uint8)
        if x is None or scale is None or zero is None or scale.size != 1:
            continue
        if zero.dtype.kind not in "iu":  # float8 has no steps of one size
            continue
        limits = np.iinfo(zero.dtype)
        step, offset = float(scale.reshape(-1)[0]), int(zero.reshape(-1)[0])
        low, high = (limits.min - offset) * step, (limits.max - offset) * step
        cut = float(((x > high + step / 2) | (x < low - step / 2)).mean())
        if cut > 1e-3:
            yield (
                f"{_label(node)} saturates: {cut:.1%} of its values lie outside of "
                f"[{low:.4g}, {high:.4g}]"
            )


def _paired(
    one: Sequence[ir.Node], other: Sequence[ir.Node]
) -> tuple[list[tuple[ir.Node, ir.Node]], list[ir.Node], list[ir.Node]]:
    """Nodes that belong together: by output, by name, then in order by operator."""
    left, right = (
        [n for n in reversed(nodes) if n.op_type != "Constant"] for nodes in (one, other)
    )
    pairs = []
    for same in (
        lambda a, b: a.outputs[0].name == b.outputs[0].name,
        lambda a, b: bool(a.name) and a.name == b.name,
        lambda a, b: (a.domain, a.op_type) == (b.domain, b.op_type),
    ):
        for node in list(right):
            like = next((candidate for candidate in left if same(candidate, node)), None)
            if like is not None:
                pairs.append((like, node))
                left.remove(like)
                right.remove(node)
    return pairs, left, right


def _attributes(one: ir.Node, other: ir.Node, models: tuple[ir.Model, ir.Model]) -> Iterator[str]:
    if (one.domain, one.op_type) != (other.domain, other.op_type):
        if not rules_of(other):
            yield f"is {other.op_type}, not {one.op_type}"
        return
    before, after = (
        _settings(node, model) for node, model in zip((one, other), models, strict=True)
    )
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if isinstance(old, float) and isinstance(new, float):
            if abs(old - new) <= _CLOSE * max(abs(old), abs(new)):
                continue
            old, new = float(f"{old:.7g}"), float(f"{new:.7g}")
        if old != new:
            yield f"{name} is {new}, not {old}"


def _settings(node: ir.Node, model: ir.Model) -> dict[str, Any]:
    """Attributes with the defaults that the operator gives them, tensors and graphs left out."""
    settings: dict[str, Any] = {}
    try:
        schema = onnx.defs.get_schema(node.op_type, opset_version(node, model), node.domain)
    except onnx.defs.SchemaError:
        schema = None
    for name, attribute in ({} if schema is None else schema.attributes).items():
        if attribute.default_value.type:
            value = onnx.helper.get_attribute_value(attribute.default_value)
            settings[name] = value.decode() if isinstance(value, bytes) else value
    for name, given in node.attributes.items():
        if given.is_ref() or given.type not in _PLAIN:
            continue
        settings[name] = list(given.value) if isinstance(given.value, tuple) else given.value
    return settings


_PLAIN = frozenset(
    getattr(ir.AttributeType, name)
    for name in ("INT", "INTS", "FLOAT", "FLOATS", "STRING", "STRINGS")
)


def _inputs(one: ir.Node, other: ir.Node) -> Iterator[str]:
    if (one.domain, one.op_type) != (other.domain, other.op_type):
        return
    before, after = (list(node.inputs) for node in (one, other))
    names, new_names = ([v.name if v else "" for v in values] for values in (before, after))
    if names == new_names:
        return
    if sorted(map(str, names)) == sorted(map(str, new_names)):
        if other.op_type not in _COMMUTATIVE:
            yield f"its inputs are swapped: {', '.join(map(str, new_names))}"
        return
    for index in range(max(len(before), len(after))):
        old = before[index] if index < len(before) else None
        new = after[index] if index < len(after) else None
        if old is None or new is None:
            if old is not new:
                present = old or new
                assert present is not None
                yield f"input {present.name!r} is {'missing' if new is None else 'new'}"
        elif old.name != new.name:
            yield from _other_input(old, new, rewritten=bool(rules_of(other)))


def _other_input(old: ir.Value, new: ir.Value, *, rewritten: bool) -> Iterator[str]:
    first, second = constant(old), constant(new)
    if first is not None and second is not None:
        words = relation(first, second)
        if words:
            yield f"{new.name!r} is {words}"
    elif not rewritten:
        yield f"reads {new.name!r}, not {old.name!r}"


def _weights(region: Region) -> dict[str, NDArray[Any]]:
    found: dict[str, NDArray[Any]] = {}
    for node in region.nodes:
        for value in node.inputs:
            array = constant(value)
            if value is not None and value.name and array is not None:
                found[value.name] = array
    return found


def _label(node: ir.Node) -> str:
    return f"{node.op_type} {node.name or node.outputs[0].name!r}"
