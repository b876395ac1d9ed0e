"""`AxisBuilder`: what the rules of operators use to relate the axes of values to one another."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import onnx_ir as ir

from onnxopt.graph.axes.components import Positions
from onnxopt.graph.axes.variables import Variables
from onnxopt.graph.inference import Inference
from onnxopt.graph.symbolic import Dim, mul


class Axis(NamedTuple):
    """An axis that is followed: `outer * variable * inner` positions in row-major order.

    Attributes:
        variable: The axis variable.
        outer: What a Reshape merged in front of it, 1 or dynamic ("batch" in "batch*12").
        inner: What it merged behind it.
    """

    variable: int
    outer: Dim = 1
    inner: Dim = 1


# A dynamic axis, or one with a single position: nothing can be removed from it.
Slot = Axis | None


class AxisBuilder:
    """Axis variables by value and axis.

    Attributes:
        free_rows: Names of tables whose rows can go although indices that are fed pick them.
        variables: The variables and what ties them.
        contracted: Axes of weights over which an operator sums (or that it uses up): where their
            slices are zero, what flows in does not matter.
        ignored: Axes of weights that are zero or not without a meaning, as a running variance.
        node: The node whose rule runs.
    """

    def __init__(
        self, model: ir.Model, inference: Inference, free_rows: Collection[str] = ()
    ) -> None:
        self.model = model
        self.free_rows = free_rows
        self.inference = inference
        self.variables = Variables()
        self.slots: dict[ir.Value, list[Slot]] = {}
        self._unset: set[tuple[ir.Value, int]] = set()
        self.touched: set[tuple[ir.Value, int]] = set()
        self.contracted: set[tuple[ir.Value, int]] = set()
        self.ignored: set[tuple[ir.Value, int]] = set()
        self.node: ir.Node | None = None

    @property
    def where(self) -> str:
        """The node whose rule runs, in words."""
        assert self.node is not None
        return f"{self.node.op_type} {self.node.name or self.node.outputs[0].name!r}"

    def dims(self, value: ir.Value) -> tuple[Dim, ...]:
        """The shape of a value, whose rank is known."""
        dims = self.inference.dims(value)
        assert dims is not None
        return dims

    def rank(self, value: ir.Value) -> int:
        """Number of axes of a value."""
        return len(self.dims(value))

    def constant_ints(self, value: ir.Value | None) -> list[int] | None:
        """The elements of a constant integer tensor, or None."""
        if value is None or value not in self.inference.constants:
            return None
        array = self.inference.constants.array(value)
        return None if array is None else [int(item) for item in array.reshape(-1)]

    def axis(self, value: ir.Value, index: int) -> Slot:
        """The axis of an input, for a rule that says how it relates to the others."""
        index %= self.rank(value)
        self.touched.add((value, index))
        return self._slots(value)[index]

    def _slots(self, value: ir.Value) -> list[Slot]:
        slots = self.slots.get(value)
        if slots is None:
            slots = [self._fresh(dim) for dim in self.dims(value)]
            self.slots[value] = slots
        return slots

    def _fresh(self, dim: Dim) -> Slot:
        return Axis(self.variables.new(dim)) if isinstance(dim, int) and dim > 1 else None

    def open_outputs(self, node: ir.Node) -> None:
        """Makes the axes of the outputs ready to be joined."""
        for value in node.outputs:
            dims = self.inference.dims(value)
            if dims is not None:
                self.slots[value] = [None] * len(dims)
                self._unset.update((value, index) for index in range(len(dims)))

    def close_outputs(self, node: ir.Node) -> None:
        """Pins what the rule did not speak of: axes of inputs, and axes of outputs."""
        reason = f"{self.where} mixes the positions of the axis"
        for value in node.inputs:
            known = None if value is None else self.inference.dims(value)
            for index in range(len(known or ())):
                if value is not None and (value, index) not in self.touched:
                    self.pin(value, index, reason)
        for value in node.outputs:
            for index, dim in enumerate(self.inference.dims(value) or ()):
                if (value, index) in self._unset:
                    self._unset.discard((value, index))
                    self.slots[value][index] = self._fresh(dim)
                    self.pin(value, index, reason)
        self.touched.clear()

    def join(self, output: ir.Value, index: int, slot: Slot) -> None:
        """Says that an axis of an output corresponds, position by position, to `slot`."""
        index %= self.rank(output)
        if (output, index) not in self._unset:
            self.unify(self.slots[output][index], slot)
            return
        self._unset.discard((output, index))
        dim = self.dims(output)[index]
        if slot is not None and slot.outer == 1 and slot.inner == 1:
            size = self.variables.sizes[slot.variable]
            if dim != size:
                self.pin_slot(slot, f"{self.where} makes an axis of {dim} from one of {size}")
                slot = self._fresh(dim)
                self.pin_slot(slot, f"{self.where} makes the axis longer")
        self.slots[output][index] = slot

    def new_output_axis(self, output: ir.Value, index: int) -> Slot:
        """A fresh axis of an output, which the rule relates to others itself."""
        index %= self.rank(output)
        self._unset.discard((output, index))
        self.slots[output][index] = self._fresh(self.dims(output)[index])
        return self.slots[output][index]

    def unify(self, one: Slot, other: Slot) -> None:
        """Says that two axes correspond position by position."""
        if one is None or other is None:
            for slot in (one, other):
                self.pin_slot(slot, f"{self.where} joins it with a dynamic axis or one of size 1")
            return
        sizes = self.variables.sizes
        same = one[1:] == other[1:] and sizes[one.variable] == sizes[other.variable]
        if same:
            self.variables.unite(one.variable, other.variable)
        else:
            for slot in (one, other):
                self.pin_slot(slot, f"{self.where} joins axes of different make")

    def link(self, one: ir.Value, first: int, other: ir.Value, second: int) -> None:
        """Unifies an axis of one input with an axis of another."""
        self.unify(self.axis(one, first), self.axis(other, second))

    def contract(self, value: ir.Value, index: int) -> None:
        """Notes that the operator sums over an axis of an input."""
        self.contracted.add((value, index % self.rank(value)))

    def plain(self, value: ir.Value, index: int) -> int | None:
        """The variable of an input's axis that nothing was merged into, else None and a pin."""
        return self.plain_slot(self.axis(value, index))

    def plain_slot(self, slot: Slot) -> int | None:
        """The variable of an axis that nothing was merged into, else None and a pin."""
        if slot is None:
            return None
        if slot.outer != 1 or slot.inner != 1:
            self.pin_slot(slot, f"{self.where} needs the axis apart from the dynamic one in it")
            return None
        return slot.variable

    def pin(self, value: ir.Value, index: int, reason: str) -> None:
        """Forbids to remove positions of an axis."""
        self.pin_slot(self._slots(value)[index], reason)

    def pin_slot(self, slot: Slot, reason: str, positions: Positions | None = None) -> None:
        """Forbids to remove positions of an axis, if there are any."""
        if slot is not None:
            self.variables.pin(slot.variable, reason, positions)

    def pin_all(self, value: ir.Value, reason: str) -> None:
        """Pins every axis of a value whose rank is known."""
        if self.inference.dims(value) is not None:
            for index in range(self.rank(value)):
                self.touched.add((value, index))
                self.pin(value, index, reason)

    def mark(self, slot: Slot, kind: str) -> None:
        """Notes what the operator does to the positions of an axis (see `Mark`)."""
        if slot is not None:
            self.variables.mark(slot.variable, kind, self.where)

    def tie_blocks(self, slot: Slot, part: int, *, inner: int) -> None:
        """Ties every position of an axis to `part[position // inner % size of part]`."""
        whole = self.plain_slot(slot)
        if whole is not None:
            self.variables.tie_blocks(whole, part, inner=inner)
        elif slot is None:
            self.variables.pin(part, f"{self.where}: an axis that is dynamic or of size 1")

    def merged(self, outer: Dim, slot: Axis, inner: Dim) -> Axis | None:
        """An axis with dynamic ones merged in front of it and behind it."""
        front, back = mul(outer, slot.outer), mul(slot.inner, inner)
        return None if front is None or back is None else Axis(slot.variable, front, back)
