"""Reshape and all that is one in disguise, Transpose, Expand, Tile, Shape.

A Reshape is cut into the shortest runs of axes with equal products, from the front and then from
the back. One axis that becomes several is a factorization, and so is the reverse. Dynamic axes that
merge with a followed one are remembered beside its variable, so that "batch * 12" still has the 12
heads when it is taken apart again.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxopt.graph.axes.builder import Axis, AxisBuilder, Slot
from onnxopt.graph.axes.selecting import slice_bounds
from onnxopt.graph.axes.targets import is_adjustable
from onnxopt.graph.symbolic import Dim, equal, mul, product
from onnxopt.graph.values import int_attribute, ints_attribute

# A piece of an input's axis: its size and, if it is followed, its variable.
_Atom = tuple[Dim, Slot]


def reshape(builder: AxisBuilder, node: ir.Node) -> None:
    """Reshape and Flatten; sizes that the target gives as numbers must be ours to change."""
    x, output = node.inputs[0], node.outputs[0]
    assert x is not None
    regroup(builder, x, output)
    if node.op_type != "Reshape":
        return
    for index, slot in enumerate(builder.slots[output]):
        target = node.inputs[1] if len(node.inputs) > 1 else None
        if slot is not None and not is_adjustable(builder.constant_ints, target, index):
            builder.pin_slot(slot, f"{builder.where}: its target shape is computed")


def regroup(builder: AxisBuilder, x: ir.Value, output: ir.Value) -> None:
    """Relates the axes of a row-major regrouping."""
    atoms = [a for i in range(builder.rank(x)) for a in _atoms(builder, builder.axis(x, i), x, i)]
    places = [i for i, dim in enumerate(builder.dims(output)) if dim != 1]
    sizes = [builder.dims(output)[i] for i in places]
    for index in range(builder.rank(output)):
        if index not in places:
            builder.join(output, index, None)
    runs, rest = _runs([a[0] for a in atoms], sizes)
    for (first, last), (start, stop) in runs:
        _relate(builder, atoms[first:last], output, places[start:stop])
    (first, last), (start, stop) = rest
    for _, slot in atoms[first:last]:
        builder.pin_slot(slot, f"{builder.where} regroups the axis")
    for place in places[start:stop]:
        slot = builder.new_output_axis(output, place)
        builder.pin_slot(slot, f"{builder.where} regroups the axis")


def _atoms(builder: AxisBuilder, slot: Slot, x: ir.Value, index: int) -> list[_Atom]:
    if slot is None:
        dim = builder.dims(x)[index]
        return [] if dim == 1 else [(dim, None)]
    atoms: list[_Atom] = [
        (slot.outer, None),
        (builder.variables.sizes[slot.variable], Axis(slot.variable)),
        (slot.inner, None),
    ]
    return [atom for atom in atoms if atom[0] != 1]


_Span = tuple[int, int]


def _runs(
    one: list[Dim], other: list[Dim]
) -> tuple[list[tuple[_Span, _Span]], tuple[_Span, _Span]]:
    """Shortest runs of equal products, and what is left over in the middle."""
    forward, a, b = _matched(one, other)
    backward, c, d = _matched(one[a:][::-1], other[b:][::-1])
    ends = [
        ((len(one) - i1, len(one) - i0), (len(other) - j1, len(other) - j0))
        for (i0, i1), (j0, j1) in backward
    ]
    return forward + ends, ((a, len(one) - c), (b, len(other) - d))


def _matched(one: list[Dim], other: list[Dim]) -> tuple[list[tuple[_Span, _Span]], int, int]:
    runs: list[tuple[_Span, _Span]] = []
    i = j = 0
    while i < len(one) and j < len(other):
        first, second = one[i], other[j]
        stop_i, stop_j = i + 1, j + 1
        while not equal(first, second):
            grows = _grows(first, second)
            if grows and stop_i < len(one):
                longer, stop_i = mul(first, one[stop_i]), stop_i + 1
                if longer is None:
                    return runs, i, j
                first = longer
            elif not grows and stop_j < len(other):
                longer, stop_j = mul(second, other[stop_j]), stop_j + 1
                if longer is None:
                    return runs, i, j
                second = longer
            else:
                return runs, i, j
        runs.append(((i, stop_i), (j, stop_j)))
        i, j = stop_i, stop_j
    return runs, i, j


def _grows(first: Dim, second: Dim) -> bool:
    """True if the first product is the one to go on with."""
    if isinstance(first, int) and isinstance(second, int):
        return first < second
    # "batch" against "12*batch": the shorter expression lacks factors.
    return len(str(first)) < len(str(second))


def _relate(
    builder: AxisBuilder, atoms: Sequence[_Atom], output: ir.Value, places: Sequence[int]
) -> None:
    followed = [slot for _, slot in atoms if slot is not None]
    if len(atoms) == 1 and len(places) == 1:
        builder.join(output, places[0], atoms[0][1])
    elif len(places) == 1 and all(isinstance(size, int) for size, _ in atoms):
        whole = builder.new_output_axis(output, places[0])
        assert whole is not None
        factors = [slot.variable for slot in followed]
        builder.variables.factor(whole.variable, factors, builder.where)
    elif len(places) == 1 and len(followed) == 1:
        place = next(i for i, atom in enumerate(atoms) if atom[1] is not None)
        outer = product(size for size, _ in atoms[:place])
        inner = product(size for size, _ in atoms[place + 1 :])
        slot = None
        if outer is not None and inner is not None:
            slot = builder.merged(outer, followed[0], inner)
        if slot is None:
            builder.pin_slot(followed[0], f"{builder.where} merges it with dynamic axes")
        builder.join(output, places[0], slot)
    elif len(atoms) == 1 and len(followed) == 1:
        made = [builder.new_output_axis(output, place) for place in places]
        factors = [slot.variable for slot in made if slot is not None]
        if len(factors) == len(made):
            builder.variables.factor(followed[0].variable, factors, builder.where)
        else:
            builder.pin_slot(followed[0], f"{builder.where} cuts it into dynamic axes")
    else:
        for slot in followed:
            builder.pin_slot(slot, f"{builder.where} regroups the axis")
        for place in places:
            slot = builder.new_output_axis(output, place)
            builder.pin_slot(slot, f"{builder.where} regroups the axis")


def transpose(builder: AxisBuilder, node: ir.Node) -> None:
    """Axes change places."""
    x = node.inputs[0]
    assert x is not None
    rank = builder.rank(x)
    order = ints_attribute(node, "perm") or tuple(reversed(range(rank)))
    for place, index in enumerate(order):
        builder.join(node.outputs[0], place, builder.axis(x, index))


def expand(builder: AxisBuilder, node: ir.Node) -> None:
    """Axes that keep their size; the target must say 1 there or be ours to change."""
    x, output = node.inputs[0], node.outputs[0]
    assert x is not None
    shift = builder.rank(output) - builder.rank(x)
    target = node.inputs[1]
    for index, dim in enumerate(builder.dims(x)):
        slot = builder.axis(x, index)
        if dim == 1:
            continue
        builder.join(output, index + shift, slot)
        if slot is not None and not is_adjustable(builder.constant_ints, target, index + shift):
            builder.pin_slot(slot, f"{builder.where}: its target shape is computed")


def tile(builder: AxisBuilder, node: ir.Node) -> None:
    """Axes that are repeated once."""
    x, output = node.inputs[0], node.outputs[0]
    assert x is not None
    repeats = builder.constant_ints(node.inputs[1])
    for index in range(builder.rank(x)):
        if repeats is not None and index < len(repeats) and repeats[index] == 1:
            builder.join(output, index, builder.axis(x, index))


def shape(builder: AxisBuilder, node: ir.Node) -> None:
    """Whoever reads the size of an axis as a number may depend on it; axes not read stay free."""
    x = node.inputs[0]
    assert x is not None
    rank = builder.rank(x)
    read = _read_axes(builder, node, rank)
    for index in range(rank):
        builder.axis(x, index)
        if index in read:
            builder.pin(x, index, f"{builder.where} reads its size")


def _read_axes(builder: AxisBuilder, node: ir.Node, rank: int) -> set[int]:
    output = node.outputs[0]
    if output.is_graph_output() or node.op_type == "Size":
        return set(range(rank))
    start, end = int_attribute(node, "start", 0), int_attribute(node, "end", rank)
    given = list(range(rank))[start:end]
    read: set[int] = set()
    for user in output.consumers():
        picked = _picked(builder, user, output, len(given))
        if picked is None:
            return set(given)
        read.update(given[index] for index in picked)
    return read


def _picked(builder: AxisBuilder, user: ir.Node, shape: ir.Value, size: int) -> list[int] | None:
    """The entries of a shape that its user reads; None if they are not known."""
    places = list(range(size))
    if user.op_type == "Gather" and user.inputs[0] is shape:
        indices = builder.constant_ints(user.inputs[1])
        return None if indices is None else [places[i] for i in indices if -size <= i < size]
    if user.op_type == "Slice" and user.inputs[0] is shape:
        bounds = slice_bounds(builder, user, 1)
        if bounds is not None:
            start, end, step = bounds.get(0, (0, size, 1))
            return places[start:end:step]
    return None
