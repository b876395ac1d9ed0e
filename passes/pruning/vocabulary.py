"""Rows of embeddings that no token of the user's list needs.

    ids -> Gather(rows[30522, 384])   =>   ids -> Gather(numbers[30522]) -> Gather(rows[8000, 384])

The interface stays: token ids keep their meaning, and a small table translates them. Ids that are
not kept become the unknown token. Exact for texts made of kept tokens.

A table that is also the output projection makes the logits narrower, which has to be asked for
(`narrow_outputs`); logit i then belongs to the i-th kept id. Refused: tables whose ids the model
computes, and rows that something else picks by number.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
import onnx_ir as ir

from onnxopt.core.errors import InvalidInputError
from onnxopt.core.names import Names
from onnxopt.graph.axes.groups import find_groups
from onnxopt.graph.values import constant
from onnxopt.passes.pruning.removing import remove_units


def vocabulary_tables(model: ir.Model) -> dict[str, list[ir.Node]]:
    """Two-dimensional tables of the main graph whose rows are picked by a graph input."""
    found: dict[str, list[ir.Node]] = {}
    for node in _lookups(model):
        table = node.inputs[0]
        assert table is not None
        found.setdefault(table.name or "", []).append(node)
    return found


def trim_vocabulary(
    model: ir.Model, keep: Sequence[int], unknown: int, *, narrow_outputs: bool = False
) -> int:
    """Removes the rows of the largest vocabulary.

    Args:
        model: Changed in place.
        keep: Token ids to keep.
        unknown: The kept id that all others become.
        narrow_outputs: Let graph outputs over the vocabulary become as narrow.

    Returns:
        The number of rows that each table lost.

    Raises:
        InvalidInputError: There is no such table, an id is not one of it, or its rows are needed.
    """
    tables = vocabulary_tables(model)
    if not tables:
        raise InvalidInputError("no table of embeddings is read by an input of the model")
    initializers = model.graph.initializers
    name = max(tables, key=lambda table: _rows(initializers[table]))
    size = _rows(initializers[name])
    kept = np.unique(np.asarray(keep, np.int64))
    if not len(kept) or kept[0] < 0 or kept[-1] >= size:
        raise InvalidInputError(
            f"the vocabulary to keep has one or more ids from 0 to {size - 1}, the rows of {name!r}"
        )
    if unknown not in kept:
        raise InvalidInputError(f"the unknown token {unknown} is not among the ids to keep")
    _require_translated(initializers[name], tables[name])
    outputs = {value.name or "" for value in model.graph.outputs} if narrow_outputs else set()
    groups = find_groups(model, changeable=outputs, free_rows={name})
    labels = groups.labels(initializers[name], 0)
    assert labels is not None
    gone = np.setdiff1d(np.arange(size), kept)
    blocked = next((r for label, r in groups.solution.reasons.items() if label in labels), "")
    if blocked:
        advice = "" if narrow_outputs else "; outputs may become narrower only if that is asked for"
        raise InvalidInputError(f"the rows of {name!r} cannot go: {blocked}{advice}")
    removed = np.zeros(int(groups.solution.labels.max()) + 1, bool)
    removed[labels[gone]] = True
    numbers = np.full(size, int(np.searchsorted(kept, unknown)), np.int64)
    numbers[kept] = np.arange(len(kept))
    remove_units(groups, removed)
    _translate(model, tables[name], numbers)
    return len(gone)


def _lookups(model: ir.Model) -> Iterator[ir.Node]:
    for node in model.graph:
        if node.op_type != "Gather" or node.domain:
            continue
        axis = node.attributes.get("axis")
        table = node.inputs[0]
        if table is None or table.const_value is None or not table.is_initializer():
            continue
        plain = len(table.const_value.shape) == 2 and (axis is None or axis.as_int() == 0)
        if plain and _is_fed(node.inputs[1]):
            yield node


def _require_translated(table: ir.Value, lookups: Collection[ir.Node]) -> None:
    """Every lookup by ids that are not constant has to be one whose ids get translated."""
    for user, _ in table.uses():
        if user.op_type != "Gather" or user in lookups:
            continue
        if constant(user.inputs[1]) is None:
            name = user.name or user.outputs[0].name
            raise InvalidInputError(
                f"the rows of {table.name!r} cannot go: Gather {name!r} picks them by ids that are "
                "no input of the model"
            )


def _is_fed(value: ir.Value | None, through: Collection[str] = ("Cast", "Identity")) -> bool:
    """True for a graph input, or one that is only cast."""
    while value is not None:
        producer = value.producer()
        if producer is None:
            return value.is_graph_input() and not value.is_initializer()
        if producer.op_type not in through:
            return False
        value = producer.inputs[0]
    return False


def _rows(table: ir.Value) -> int:
    assert table.const_value is not None
    return int(table.const_value.shape.numpy()[0])


def _translate(model: ir.Model, nodes: Sequence[ir.Node], numbers: np.ndarray) -> None:
    """Puts a lookup of new numbers in front of the lookups of rows."""
    names = Names(model)
    name = names.unique("token_numbers")
    tensor = ir.Tensor(numbers, name=name)
    table = ir.Value(
        name=name,
        type=ir.TensorType(ir.DataType.INT64),
        shape=tensor.shape,
        const_value=tensor,
    )
    model.graph.register_initializer(table)
    for node in nodes:
        ids = node.inputs[1]
        assert ids is not None
        lookup = ir.Node("", "Gather", [table, ids])
        lookup.name = names.unique_node("token_number")
        lookup.outputs[0].name = names.unique(f"{ids.name}_number")
        lookup.outputs[0].type = ir.TensorType(ir.DataType.INT64)
        lookup.outputs[0].shape = ids.shape
        model.graph.insert_before(node, lookup)
        node.replace_input_with(1, lookup.outputs[0])
