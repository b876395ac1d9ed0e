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
from onnxopt.runtime.diagnosis.dequantizing import source_of, weight_of
from onnxopt.runtime.diagnosis.regions import Region, described
from onnxopt.runtime.diagnosis.relations import ROUNDED, relation, scaling
from onnxopt.runtime.parity.conversion import CONVERSIONS

_MOST = 4  # causes told; one fault rarely has more
_CLOSE = 1e-6
# What rounding takes from a weight: int8 per tensor 1 to 2 %, float16 0.02 %.
_ROUNDING_TO_STEPS, _ROUNDING_TO_FLOAT16 = 0.02, 1e-3
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
    pairs, missing, added = _paired(*_computing(original.nodes, rewritten.nodes))
    causes: dict[str, None] = {}
    for one, other in pairs:
        for cause in (*_attributes(one, other, models), *_inputs(one, other)):
            causes[f"{described(other)}: {cause}"] = None
    if not any(rules_of(node) for node in rewritten.nodes):
        if any(node.op_type == "QuantizeLinear" for node in rewritten.nodes):
            # A range that ends at 0 does their work.
            missing = [node for node in missing if node.op_type not in ("Relu", "Clip")]
        causes.update({f"missing: {described(node)}": None for node in missing})
        causes.update({f"added: {described(node)}": None for node in added})
    for name, array in _weights(rewritten).items():
        before = _weights(original).get(name)
        words = "" if before is None else _weight_words(before, array)
        if words and not any(f"{name!r} is " in cause for cause in causes):
            causes[f"{name!r} is {words}"] = None
    return list(causes)[:_MOST]


def _computing(
    one: Sequence[ir.Node], other: Sequence[ir.Node]
) -> tuple[list[ir.Node], list[ir.Node]]:
    """The nodes without those that only convert, unless both models have some."""
    kept, new = ([n for n in nodes if n.op_type not in CONVERSIONS] for nodes in (one, other))
    if len(kept) < len(one) and len(new) < len(other):
        return list(one), list(other)
    return kept, new


def _weight_words(before: NDArray[Any], after: NDArray[Any], *, steps: bool = False) -> str:
    """What became of a weight, but for the rounding that a narrower type makes."""
    words = relation(before, after)
    narrower = steps or after.dtype.itemsize < before.dtype.itemsize
    if not words or not narrower or before.shape != after.shape:
        return words
    if steps and words.startswith(ROUNDED):
        words = scaling(before, after, _ROUNDING_TO_STEPS) or words
    error = float(np.linalg.norm(after.astype(np.float64) - before))
    usual = _ROUNDING_TO_STEPS if steps else _ROUNDING_TO_FLOAT16
    return words if error > usual * float(np.linalg.norm(before)) else ""


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
    names, new_names = (
        [source_of(v).name if v else "" for v in values] for values in (before, after)
    )
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
        else:
            yield from _other_input(old, new, rewritten=bool(rules_of(other)))


def _other_input(old: ir.Value, new: ir.Value, *, rewritten: bool) -> Iterator[str]:
    first, second = weight_of(old), weight_of(new)
    if first is not None and second is not None:
        steps = constant(new) is None
        words = _weight_words(first, second, steps=steps) if old.name != new.name else ""
        if words:
            yield f"{source_of(new).name!r} is {words}"
    elif not rewritten and source_of(old).name != source_of(new).name:
        yield f"reads {new.name!r}, not {old.name!r}"


def _weights(region: Region) -> dict[str, NDArray[Any]]:
    found: dict[str, NDArray[Any]] = {}
    for node in region.nodes:
        for value in node.inputs:
            array = constant(value)
            if value is not None and value.name and array is not None:
                found[value.name] = array
    return found
