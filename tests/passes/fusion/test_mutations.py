"""Fusions find a transformer block whatever harmless nodes stand in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import onnx_ir as ir
import pytest
from helpers.rewriting import random_feeds, run
from helpers.transformer_block import EXPECTED, block

from onnxopt.core.pipeline import Pipeline
from onnxopt.presets import fast

SIZES = ({"N": 1, "S": 3}, {"N": 2, "S": 5})


def _constant(*items: int) -> ir.Value:
    return ir.node("Constant", [], {"value_ints": list(items)}).outputs[0]


def _identity(value: ir.Value, size: int) -> list[ir.Node]:
    return [ir.node("Identity", [value])]


def _cast(value: ir.Value, size: int) -> list[ir.Node]:
    return [ir.node("Cast", [value], {"to": ir.DataType.FLOAT})]


def _wider(value: ir.Value, size: int) -> list[ir.Node]:
    up = ir.node("Cast", [value], {"to": ir.DataType.DOUBLE})
    return [up, ir.node("Cast", [up.outputs[0]], {"to": ir.DataType.FLOAT})]


def _reshape(value: ir.Value, size: int) -> list[ir.Node]:
    zeros = _constant(*[0] * size)
    made = zeros.producer()
    assert made is not None
    return [made, ir.node("Reshape", [value, zeros])]


def _lifted(value: ir.Value, size: int) -> list[ir.Node]:
    axes = _constant(1)
    made = axes.producer()
    assert made is not None
    up = ir.node("Unsqueeze", [value, axes])
    return [made, up, ir.node("Squeeze", [up.outputs[0], axes])]


def _turned(value: ir.Value, size: int) -> list[ir.Node]:
    perm = [*range(1, size), 0]
    there = ir.node("Transpose", [value], {"perm": perm})
    return [there, ir.node("Transpose", [there.outputs[0]], {"perm": [size - 1, *range(size - 1)]})]


NODES: dict[str, Callable[[ir.Value, int], list[ir.Node]]] = {
    "identity": _identity, "cast": _cast, "wider": _wider, "reshape": _reshape,
    "lifted": _lifted, "turned": _turned,
}  # fmt: skip


def _edges(model: ir.Model) -> Iterator[tuple[ir.Node, int, ir.Value]]:
    """Every use of a computed float value."""
    for node in list(model.graph):
        for index, value in enumerate(node.inputs):
            if value is None or value.is_initializer() or value.dtype != ir.DataType.FLOAT:
                continue
            if value.shape is not None and len(value.shape) > 1:
                yield node, index, value


def _insert(model: ir.Model, kind: str, user: ir.Node, index: int, value: ir.Value) -> None:
    assert value.shape is not None
    nodes = NODES[kind](value, len(value.shape))
    model.graph.insert_before(user, nodes)
    user.replace_input_with(index, nodes[-1].outputs[0])


def _swapped(model: ir.Model) -> None:
    for node in model.graph:
        if node.op_type in ("Add", "Mul"):
            first, second = node.inputs
            node.replace_input_with(0, second)
            node.replace_input_with(1, first)


def _guarded(model: ir.Model) -> None:
    """As transformers guards rows without keys: NaN after Softmax becomes zero."""
    softmax = next(node for node in model.graph if node.op_type == "Softmax")
    weights = softmax.outputs[0]
    uses = list(weights.uses())
    zero = ir.node("Constant", [], {"value_float": 0.0})
    empty = ir.node("IsNaN", [weights])
    guard = ir.node("Where", [empty.outputs[0], zero.outputs[0], weights])
    model.graph.insert_after(softmax, [zero, empty, guard])
    for user, index in uses:
        user.replace_input_with(index, guard.outputs[0])


def _fuses(model: ir.Model) -> None:
    """All is fused for CUDA, and the outputs are the same."""
    original = model.clone()
    Pipeline(fast("cuda"))(model)
    counts = Counter(node.op_type for node in model.graph)
    assert {name: counts[name] for name in EXPECTED} == EXPECTED, counts
    for sizes in SIZES:
        feeds = random_feeds(original, sizes)
        for before, after in zip(run(original, feeds), run(model, feeds), strict=True):
            np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)


def test_block_is_fused() -> None:
    _fuses(block())


@pytest.mark.parametrize("kind", NODES)
def test_block_is_fused_when_nodes_stand_on_every_edge(kind: str) -> None:
    model = block()
    for user, index, value in list(_edges(model)):
        _insert(model, kind, user, index, value)
    _fuses(model)


@pytest.mark.slow
@pytest.mark.parametrize("kind", NODES)
def test_block_is_fused_when_nodes_stand_on_one_edge(kind: str) -> None:
    for place in range(len(list(_edges(block())))):
        model = block()
        _insert(model, kind, *list(_edges(model))[place])
        _fuses(model)


@pytest.mark.parametrize("change", [_swapped, _guarded])
def test_block_is_fused_when(change: Callable[[ir.Model], None]) -> None:
    model = block()
    change(model)
    _fuses(model)


def test_block_is_fused_when_everything_is_at_once() -> None:
    model = block()
    _guarded(model)
    _swapped(model)
    for place, (user, index, value) in enumerate(list(_edges(model))):
        _insert(model, list(NODES)[place % len(NODES)], user, index, value)
    _fuses(model)
