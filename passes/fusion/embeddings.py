"""The embeddings of a transformer and the normalization behind them as one operator.

    LayerNormalization(Gather(w, i) + Gather(p, j) [+ Gather(s, k)], g, b)
        -> EmbedLayerNormalization(i, k, w, p, s, g, b, , j)

and a constant vector in the sum, the one row of segments that a model with a single segment has,
is added to the table of positions. EmbedLayerNormalization is an operator of ONNX Runtime
(com.microsoft) with 32-bit indices; other ones are cast. Which lookup counts as that of words is
of no matter to it, but only the one of positions may be the same for every sequence of the batch.

Refused: a sum with other users; a scale or bias that is computed. Left alone, silently: tables that
are computed or have other than two axes, indices with other than two axes or without a known shape.
Indices that count from the end, which Gather takes and the operator does not, are not provable and
no model of words has them. Subgraphs are rewritten too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter.pattern import MatchResult, RewriteRule

from onnxopt.core.passes import RewritePass
from onnxopt.graph.values import constant, dims, int_attribute
from onnxopt.passes.cleanup.single_node import (
    NodeRule,
    found,
    has_input,
    no_match,
    only_user,
    producer_of,
    refuse,
)
from onnxopt.passes.fusion.runtime_operators import DOMAIN, FLOATS, is_constant_vector

_INT32 = ir.DataType.INT32


@dataclasses.dataclass(frozen=True, kw_only=True)
class FuseEmbeddings(RewritePass):
    """Fuses embeddings and their normalization into EmbedLayerNormalization of ONNX Runtime."""

    name: ClassVar[str] = "fuse-embeddings"

    def rules(self) -> Sequence[RewriteRule]:
        """One rule, at the normalization."""
        return [_Embeddings.rule("LayerNormalization", "embeddings")]


@dataclasses.dataclass(frozen=True)
class _Lookup:
    """Rows of a constant table `[rows, size]` by indices `[batch or 1, sequence]`."""

    table: ir.Value
    indices: ir.Value

    @property
    def is_shared(self) -> bool:
        """True if all sequences of the batch have the same indices."""
        return (dims(self.indices) or (None,))[0] == 1

    def fits(self, total: tuple[int | str | None, ...]) -> bool:
        """False if one index is known to stand for all places of `[batch, sequence, size]`."""
        shape = dims(self.indices) or ()
        return shape[1:] != (1,) or total[1] == 1


@dataclasses.dataclass
class _Sum:
    """What is added up.

    Attributes:
        lookups: The lookups.
        row: A constant vector, or None.
        complaint: Why a sum that looks like embeddings cannot be taken.
    """

    lookups: list[_Lookup] = dataclasses.field(default_factory=list)
    row: ir.Value | None = None
    complaint: str = ""


class _Embeddings(NodeRule):
    def check(self, context: Any, root: ir.Value) -> MatchResult:
        """Reads the sum and tells words, positions and segments apart."""
        norm = context.root
        total = norm.inputs[0]
        shape = dims(total)
        if total is None or shape is None or len(shape) != 3 or total.dtype not in FLOATS:
            return no_match()
        if int_attribute(norm, "axis", -1) not in (-1, 2) or len(norm.outputs) > 1:
            return no_match()
        read = _Sum()
        if not _read(total, shape[-1], read) or not 2 <= len(read.lookups) <= 3:
            return no_match()
        if read.complaint:
            return refuse(read.complaint, norm)
        if not has_input(norm, 2) or not all(
            is_constant_vector(vector, shape[-1]) for vector in norm.inputs[1:]
        ):
            return refuse("there is no constant scale and bias", norm)
        positions = next((one for one in read.lookups if one.is_shared), read.lookups[-1])
        words = [one for one in read.lookups if one is not positions]
        sizes = [dims(one.indices) for one in words]
        if any(size != shape[:2] for size in sizes) or not positions.fits(shape):
            return no_match()
        return found(parts=(words, positions, read.row))

    def rewrite(
        self,
        op: Any,
        root: ir.Value,
        parts: tuple[list[_Lookup], _Lookup, ir.Value | None],
    ) -> ir.Value:
        """The operator with its indices in 32 bit."""
        words, positions, row = parts
        norm = root.producer()
        assert norm is not None
        table = positions.table
        if row is not None:
            rows, vector = constant(table), constant(row)
            assert rows is not None
            assert vector is not None
            moved = (rows.astype(np.float64) + vector).astype(rows.dtype)
            table = op.initializer(ir.tensor(moved), name=table.name)
        ids = [_in_32_bits(op, one.indices) for one in (*words, positions)]
        segments = words[1] if len(words) > 1 else None
        outputs = op.EmbedLayerNormalization(
            ids[0],
            ids[1] if segments else None,
            words[0].table,
            table,
            segments.table if segments else None,
            norm.inputs[1],
            norm.inputs[2],
            None,
            ids[-1],
            epsilon=norm.attributes.get_float("epsilon", 1e-5),
            _domain=DOMAIN,
            _outputs=2,
        )
        outputs[1].dtype = _INT32
        y: ir.Value = outputs[0]
        return y


def _read(value: ir.Value, size: int | str | None, into: _Sum) -> bool:
    """Reads a sum of lookups and at most one constant vector; False if it is something else."""
    if is_constant_vector(value, size) and into.row is None:
        into.row = value
        return True
    gather = producer_of(value, "Gather")
    if gather is not None:
        table, indices = gather.inputs
        known = constant(table) is not None and (dims(table) or ())[1:] == (size,)
        if table is None or indices is None or not known or int_attribute(gather, "axis", 0) != 0:
            return False
        into.lookups.append(_Lookup(table, indices))
        return len(dims(indices) or ()) == 2
    add = producer_of(value, "Add", "Sum")
    if add is None or len(add.inputs) > 3 or len(into.lookups) > 2:
        return False
    if not all(summand is not None and _read(summand, size, into) for summand in add.inputs):
        return False
    if not only_user(value):
        into.complaint = "the sum of the embeddings has other users"
    return True


def _in_32_bits(op: Any, indices: ir.Value) -> ir.Value:
    if indices.dtype == _INT32:
        return indices
    cast: ir.Value = op.Cast(indices, to=_INT32)
    cast.dtype, cast.shape = _INT32, indices.shape
    return cast
