"""Casts that follow each other, and casts of indices.

    Cast(Cast(x, to=B), to=C)       -> Cast(x, to=C)     B holds every value of the type of x
    Cast(Cast(x, to=B), to=type(x)) -> x                 likewise
    Gather(d, Cast(i, to=int64))    -> Gather(d, i)      i is int32; GatherElements likewise

int64 -> int32 -> C is merged if the values are dimensions or positions (the result of Shape,
NonZero, ArgMax, ..., moved around but not computed with), which fit into int32.

Refused: float -> float16 -> float and every other round trip whose first cast rounds, cuts or
wraps, since it is no no-op; strings and 8-bit floats. Subgraphs are rewritten too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import onnx_ir as ir
from onnxscript.rewriter.pattern import MatchResult, RewriteRule

from onnxopt.core.passes import RewritePass
from onnxopt.passes.cleanup.single_node import NodeRule, no_match, producer_of, refuse

_T = ir.DataType
# Bits of the integers that a type holds exactly, without the sign; and whether it has a sign.
_INTEGER_BITS = {
    _T.BOOL: (1, False),
    _T.UINT8: (8, False),
    _T.UINT16: (16, False),
    _T.UINT32: (32, False),
    _T.UINT64: (64, False),
    _T.INT8: (7, True),
    _T.INT16: (15, True),
    _T.INT32: (31, True),
    _T.INT64: (63, True),
}
_FLOAT_BITS = {_T.BFLOAT16: 8, _T.FLOAT16: 11, _T.FLOAT: 24, _T.DOUBLE: 53}
_WIDER_FLOATS = {
    _T.FLOAT16: {_T.FLOAT, _T.DOUBLE},
    _T.BFLOAT16: {_T.FLOAT, _T.DOUBLE},
    _T.FLOAT: {_T.DOUBLE},
}
_POSITIONS = ("Shape", "Size", "NonZero", "ArgMax", "ArgMin")
_MOVES = ("Gather", "Slice", "Squeeze", "Unsqueeze", "Concat", "Reshape", "Identity")
_DEPTH = 6


@dataclasses.dataclass(frozen=True, kw_only=True)
class MergeCasts(RewritePass):
    """Merges Casts that follow each other where the first one loses nothing."""

    name: ClassVar[str] = "merge-casts"

    def rules(self) -> Sequence[RewriteRule]:
        """Pairs of casts, and casts of indices."""
        return [
            _Pair.rule("Cast", "cast-pair"),
            _Index.rule("Gather", "gather-index"),
            _Index.rule("GatherElements", "gather-elements-index"),
        ]


def holds(wide: ir.DataType, narrow: ir.DataType) -> bool:
    """True if every value of type `narrow` is a value of type `wide`."""
    if wide == narrow:
        return True
    if narrow in _INTEGER_BITS:
        bits, signed = _INTEGER_BITS[narrow]
        if wide in _FLOAT_BITS:
            return bits <= _FLOAT_BITS[wide]
        if wide in _INTEGER_BITS and wide != _T.BOOL:
            wide_bits, wide_signed = _INTEGER_BITS[wide]
            return bits <= wide_bits and signed <= wide_signed
        return False
    return wide in _WIDER_FLOATS.get(narrow, ())


def _is_position(value: ir.Value | None, depth: int = _DEPTH) -> bool:
    """True if the integers are sizes or positions in tensors, which fit into int32."""
    if producer_of(value, *_POSITIONS) is not None:
        return True
    moved = producer_of(value, *_MOVES)
    if moved is None or depth == 0:
        return False
    sources = moved.inputs if moved.op_type == "Concat" else moved.inputs[:1]
    return all(_is_position(source, depth - 1) for source in sources)


def _target(node: ir.Node) -> ir.DataType | None:
    # Opsets before 6 spell the type as a string.
    to = node.attributes.get("to")
    known = to is not None and to.type == ir.AttributeType.INT and not to.is_ref()
    return ir.DataType(to.as_int()) if to is not None and known else None


class _Pair(NodeRule):
    """Two Casts in a row."""

    def check(self, context: Any, root: ir.Value) -> MatchResult:
        """The first Cast loses nothing."""
        node = context.root
        inner = producer_of(node.inputs[0], "Cast")
        if inner is None or inner.inputs[0] is None or inner.inputs[0].dtype is None:
            return no_match()
        source, middle, final = inner.inputs[0].dtype, _target(inner), _target(node)
        if middle is None or final is None:
            return no_match()
        numeric = _INTEGER_BITS.keys() | _FLOAT_BITS.keys()
        if not {source, middle, final} <= numeric:
            return refuse("strings and 8-bit floats are left alone", node)
        fits = middle == _T.INT32 and source == _T.INT64 and _is_position(inner.inputs[0])
        if fits or holds(middle, source):
            return MatchResult()
        # Only a round trip looks like a no-op; truncation and tests for zero are meant.
        if final == source and middle != _T.BOOL:
            return refuse(f"{middle.name} does not hold every {source.name}: values change", node)
        return no_match()

    def rewrite(self, op: Any, root: ir.Value) -> Any:
        """One Cast, or none."""
        node = root.producer()
        inner = None if node is None or node.inputs[0] is None else node.inputs[0].producer()
        assert node is not None
        assert inner is not None
        x, final = inner.inputs[0], _target(node)
        assert x is not None
        return x if x.dtype == final else op.Cast(x, to=final)


class _Index(NodeRule):
    """Indices that were int32, a type that the operator takes as it is."""

    def check(self, context: Any, root: ir.Value) -> MatchResult:
        """The Cast widens int32 to int64."""
        cast = producer_of(context.root.inputs[1], "Cast")
        widens = (
            cast is not None
            and cast.inputs[0] is not None
            and cast.inputs[0].dtype == _T.INT32
            and _target(cast) == _T.INT64
        )
        return MatchResult() if widens else no_match()

    def rewrite(self, op: Any, root: ir.Value) -> Any:
        """The same node on the indices before the Cast."""
        node = root.producer()
        assert node is not None
        cast = None if node.inputs[1] is None else node.inputs[1].producer()
        assert cast is not None
        return op.op(self.op_type, node.inputs[0], cast.inputs[0], **node.attributes)
