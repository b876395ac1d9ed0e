"""Pruned copies of a model, and what they cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from onnxopt.core.names import Names
from onnxopt.graph.axes.groups import Groups, find_groups
from onnxopt.graph.cost import model_cost, weight_bytes
from onnxopt.graph.residuals import Span, residual_blocks
from onnxopt.passes.pruning.bypassing import bypass
from onnxopt.passes.pruning.removing import Mask, Removal, remove_units
from onnxopt.pruning.fitting import Kept


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A pruned copy.

    Attributes:
        model: The copy; slices of weights are taken when they are read.
        kept: By value and axis, which positions stayed, where not all did; values where a block
            ended are in it, too.
    """

    model: ir.Model
    kept: Kept


def apply(model: ir.Model, removed: Mask, spans: Sequence[Span] = ()) -> Candidate:
    """Removes components and blocks from a copy of a model.

    Args:
        model: What they were found in; left as it is.
        removed: By component, whether it goes.
        spans: Blocks that go.
    """
    copy = model.clone()
    groups = find_groups(copy)
    ends = {block.end.name for span in spans for block in span.blocks}
    blocks = [block for block in residual_blocks(copy) if block.end.name in ends]
    kept = dict(kept_positions(groups, removed))
    remove_units(groups, removed)
    if blocks:
        bypass(copy, blocks)
        # All positions stay where a block ended, but they hold something else.
        kept |= {name: kept.get(name, {}) for name in ends if name}
    return Candidate(copy, kept)


def kept_positions(groups: Groups, removed: Mask) -> Kept:
    """What stays of the values that nodes compute, before the removal."""
    removal = Removal(groups, removed, Names(groups.builder.model))
    found = {}
    for value in groups.builder.slots:
        if value.producer() is not None and value.name:
            changed = removal.changed(value)
            if changed:
                found[value.name] = changed
    return found


@dataclasses.dataclass(frozen=True)
class Size:
    """What a model costs.

    Attributes:
        flops: Floating-point operations of one run.
        parameters: Numbers in its floating-point initializers.
        bytes: Bytes of all its weights.
    """

    flops: int
    parameters: int
    bytes: int


def size_of(model: ir.Model, sizes: Mapping[str, int]) -> Size:
    """Measures a model with inferred shapes.

    Args:
        model: The model.
        sizes: Size of each symbolic dimension.
    """
    parameters = sum(
        value.const_value.size
        for value in model.graph.initializers.values()
        if value.const_value is not None and value.const_value.dtype.is_floating_point()
    )
    return Size(model_cost(model, dict(sizes)).flops, parameters, weight_bytes(model))
