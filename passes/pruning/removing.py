"""Removing units: every initializer is sliced, every number that spells out a width is corrected.

    Conv w[64, c, 3, 3] -> Relu -> Conv w[o, 64, 3, 3]   =>   w[63, c, 3, 3], w[o, 63, 3, 3]

Nothing is replaced or rewired: the graph has the nodes that it had. Slices are taken when the model
is saved or run, tensor by tensor; until then the model holds the indices only.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxopt.core.names import Names
from onnxopt.graph.axes.groups import Groups
from onnxopt.graph.inference import infer_model

Mask = NDArray[np.bool_]
# Metadata of models that were pruned, with what was asked for.
PRUNED_KEY = "onnxopt.pruned"


class Removal:
    """A choice of components to remove, seen from values.

    Attributes:
        groups: The groups of the model, which is not changed yet.
        removed: By component, whether it goes.
        names: A source of fresh names.
    """

    def __init__(self, groups: Groups, removed: Mask, names: Names) -> None:
        self.groups = groups
        self.removed = removed
        self.names = names

    def kept(self, value: ir.Value | None, axis: int) -> Mask | None:
        """By position of an axis whether it stays; None where all do."""
        if value is None or value not in self.groups.builder.slots:
            return None
        labels = self.groups.labels(value, axis)
        if labels is None:
            return None
        gone = self.removed[labels]
        return ~gone if gone.any() else None

    def ratio(self, value: ir.Value | None, axis: int) -> tuple[int, int] | None:
        """Positions of an axis that stay, and all; None where all stay."""
        kept = self.kept(value, axis)
        return None if kept is None else (int(kept.sum()), len(kept))

    def changed(self, value: ir.Value) -> dict[int, Mask]:
        """The axes of a value that become shorter."""
        axes = range(len(self.groups.builder.slots.get(value, ())))
        found = {axis: self.kept(value, axis) for axis in axes}
        return {axis: kept for axis, kept in found.items() if kept is not None}


def remove_units(groups: Groups, removed: Mask) -> None:
    """Removes components from the model of `groups`, which are of no use afterwards.

    Args:
        groups: The groups of the model.
        removed: By component, whether it goes; never all of a group.
    """
    from onnxopt.passes.pruning.corrections import CORRECTIONS

    model = groups.builder.model
    removal = Removal(groups, removed, Names(model))
    used = [value for value in model.graph.initializers.values() if value.uses()]
    # What a correction reads of the old shapes must still be there, so weights come last.
    for node in list(model.graph):
        correction = CORRECTIONS.get(node.op_type)
        if correction is not None:
            correction(removal, node)
    for value in list(groups.builder.slots):
        changed = removal.changed(value)
        if not changed:
            continue
        if value.const_value is not None:
            value.const_value = _sliced(value.const_value, changed)
            value.shape = ir.Shape(value.const_value.shape.numpy())
        else:
            _shorten(groups, value, changed)
    # Numbers that a correction replaced.
    for value in used:
        if not value.uses() and not value.is_graph_output() and value.name:
            model.graph.initializers.pop(value.name)
    infer_model(model)


def _sliced(tensor: ir.TensorProtocol, changed: dict[int, Mask]) -> ir.TensorProtocol:
    indices = {axis: np.flatnonzero(kept) for axis, kept in changed.items()}
    shape = [
        len(indices[axis]) if axis in indices else size
        for axis, size in enumerate(tensor.shape.numpy())
    ]

    def take() -> ir.TensorProtocol:
        array = tensor.numpy()
        for axis, positions in indices.items():
            array = array.take(positions, axis=axis)
        return ir.Tensor(np.ascontiguousarray(array), dtype=tensor.dtype, name=tensor.name)

    return ir.LazyTensor(take, dtype=tensor.dtype, shape=ir.Shape(shape), name=tensor.name)


def _shorten(groups: Groups, value: ir.Value, changed: dict[int, Mask]) -> None:
    """Writes the new sizes on a value; those of merged axes are left to inference."""
    if value.shape is None:
        return
    dims: list[int | ir.SymbolicDim | None] = list(value.shape)
    for axis, kept in changed.items():
        slot = groups.builder.slots[value][axis]
        plain = slot is not None and slot.outer == 1 and slot.inner == 1
        dims[axis] = int(kept.sum()) if plain else None
    value.shape = ir.Shape(dims)
