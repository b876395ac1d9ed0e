"""Rotary position embedding as one operator of ONNX Runtime.

    x * cos + Concat(-x2, x1) * sin             -> RotaryEmbedding(x, places, c, s)
    Concat(the same of x[:r], x[r:])            -> RotaryEmbedding(x, ..., rotary_embedding_dim=r)

with x1 and x2 the halves of x on its last axis, and cos and sin both made of two equal halves c and
s, as `Cos(Concat(angles, angles))`. The operator wants a table of angles and the row of each token.
Exported graphs compute the angles of their tokens from an input instead, for any position: these
become the table, `[batch * sequence, r / 2]`, and token number n reads row n. Nothing is assumed
about how long a sequence may become. Where all sequences of a batch share their angles, the table
has a row for every place and starts at row 0.

Six to eight nodes become one, for queries and keys of every layer; table and rows are made once.
x is `[batch, heads, sequence, size]` or `[batch, sequence, heads, size]`; the operator reads and
writes heads merged, as projections and fused attention do (`heads.py`).

Refused: halves of cos or sin that are not provably equal; sizes that are not known; angles with
other axes than batch, sequence and size. Interleaved pairs (x0, x1), (x2, x3) are not looked for.
Subgraphs are rewritten too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import onnx_ir as ir
from onnxscript.rewriter.pattern import MatchResult, RewriteRule

from onnxopt.core.passes import RewritePass
from onnxopt.graph import symbolic
from onnxopt.graph.values import dims, int_attribute, rank
from onnxopt.passes.cleanup.single_node import (
    NodeRule,
    found,
    no_match,
    only_user,
    producer_of,
    refuse,
)
from onnxopt.passes.fusion.attention.halves import Part, half_shape, part_of, write_half
from onnxopt.passes.fusion.attention.heads import Heads, typed
from onnxopt.passes.fusion.attention.lengths import integers, scalar
from onnxopt.passes.fusion.polynomials import number
from onnxopt.passes.fusion.runtime_operators import DOMAIN

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FuseRotaryEmbedding(RewritePass):
    """Fuses rotary position embeddings into RotaryEmbedding of ONNX Runtime."""

    name: ClassVar[str] = "fuse-rotary-embedding"

    def rules(self) -> Sequence[RewriteRule]:
        """The sum of both products, and the Concat with what is not rotated."""
        return [_Rotary.rule("Concat", "partial-rotary"), _Rotary.rule("Add", "rotary")]


@dataclasses.dataclass(frozen=True)
class _Rotation:
    """What is rotated and by which angles.

    Attributes:
        x: The heads.
        cos: The cosines that x is multiplied by.
        sin: The sines.
        width: Size of what is rotated; smaller than that of x where the rest is kept.
        shape: `(batch, sequence, width / 2)` of the angles; the batch is 1 where all share them.
    """

    x: Heads
    cos: ir.Value
    sin: ir.Value
    width: int
    shape: tuple[int | str, int | str, int]


class _Rotary(NodeRule):
    def check(self, context: Any, root: ir.Value) -> MatchResult:
        """Reads the two products, and the Concat around them if there is one."""
        node = context.root
        sum_, rest = node, None
        if node.op_type == "Concat":
            if len(node.inputs) != 2 or node.inputs[0] is None or rank(root) != 4:
                return no_match()
            if int_attribute(node, "axis", 0) % 4 != 3 or not only_user(node.inputs[0]):
                return no_match()
            sum_, rest = producer_of(node.inputs[0], "Add"), part_of(node.inputs[1])
            if sum_ is None or rest is None:
                return no_match()
        read = _read(sum_)
        if read is None:
            return no_match()
        x, cos, sin = read
        shape = dims(x)
        if shape is None or len(shape) != 4 or not isinstance(shape[3], int):
            return refuse("the size of a head is not known", node)
        width = shape[3]
        if rest is None:
            user = root.consumers()[0] if len(root.uses()) == 1 else None
            if user is not None and user.op_type == "Concat" and _is_start(x):
                return no_match()  # the Concat is a match of its own
        else:
            start = part_of(x)
            if start is None or start.source is not rest.source or not _covers(start, rest):
                return no_match()
            x = start.source
        if x.dtype not in _FLOATS:
            return refuse("the type of the heads is none that the operator takes", node)
        rotation = _rotation(x, cos, sin, width)
        return refuse(rotation, node) if isinstance(rotation, str) else found(rotation=rotation)

    def rewrite(self, op: Any, root: ir.Value, rotation: _Rotation) -> ir.Value:
        """The operator on merged heads, with the angles as its table."""
        x, (batch, sequence, half) = rotation.x, rotation.shape
        shape, source = x.shape, x.value
        assert shape is not None
        heads, size = shape[1], shape[3]
        assert isinstance(heads, int)
        assert isinstance(size, int)
        tables = []
        rows = sequence if batch == 1 else symbolic.mul(batch, sequence)
        for value in (rotation.cos, rotation.sin):
            angles = write_half(op, value)
            tables.append(typed(op.Reshape(angles, integers(op, [-1, half])), angles, (rows, half)))
        options = {"rotary_embedding_dim": rotation.width} if rotation.width != size else {}
        merged = x.merged(op, "merged_rotary")
        rotated = op.RotaryEmbedding(
            merged,
            integers(op, [0]) if batch == 1 else _rows(op, write_half(op, rotation.cos)),
            *tables,
            num_heads=heads,
            **options,
            _domain=DOMAIN,
        )
        typed(rotated, merged, dims(merged))
        split = op.Reshape(rotated, integers(op, [0, 0, heads, size]))
        typed(split, source, (shape[0], shape[2], heads, size))
        return split if x.split else typed(op.Transpose(split, perm=[0, 2, 1, 3]), source, shape)


def _rotation(x: ir.Value, cos: ir.Value, sin: ir.Value, width: int) -> _Rotation | str:
    """The rotation of heads on the second or the third axis, or why it is none."""
    equal = False
    for heads in (Heads(x), Heads(x, split=True)):
        shape = heads.shape
        first, second = (half_shape(one, width, split=heads.split) for one in (cos, sin))
        if first is None or first != second or shape is None:
            continue
        equal = True
        batch, sequence, half = first
        if batch is None or sequence is None or batch not in (1, shape[0]):
            continue
        if sequence == shape[2] and isinstance(shape[1], int):
            return _Rotation(heads, cos, sin, width, (batch, sequence, half))
    if equal:
        return "the angles are not those of the tokens, or the number of heads is not known"
    return "the halves of cos or sin are not provably equal"


def _rows(op: Any, angles: ir.Value) -> ir.Value:
    """`[batch, sequence]`: 0, 1, 2, ... for the tokens of all sequences."""
    size = op.Slice(op.Shape(angles), integers(op, [0]), integers(op, [2]), integers(op, [0]))
    count = op.ReduceProd(size, keepdims=0)
    rows: ir.Value = op.Reshape(op.Range(scalar(op, 0), count, scalar(op, 1)), size)
    return rows


def _read(sum_: ir.Node) -> tuple[ir.Value, ir.Value, ir.Value] | None:
    """x, cos and sin of `x * cos + Concat(-x2, x1) * sin`."""
    for plain, turned in (sum_.inputs, sum_.inputs[::-1]):
        first, second = producer_of(plain, "Mul"), producer_of(turned, "Mul")
        if first is None or second is None:
            continue
        for concat, sin in (second.inputs, second.inputs[::-1]):
            x = _turned(producer_of(concat, "Concat"))
            if x is None or sin is None:
                continue
            for other, cos in (first.inputs, first.inputs[::-1]):
                if other is x and cos is not None:
                    return x, cos, sin
    return None


def _turned(concat: ir.Node | None) -> ir.Value | None:
    """X of `Concat(-x2, x1)` on the last axis."""
    if concat is None or len(concat.inputs) != 2:
        return None
    size = rank(concat.outputs[0])
    if size is None or int_attribute(concat, "axis", 0) % size != size - 1:
        return None
    second, first = _negated(concat.inputs[0]), part_of(concat.inputs[1])
    last = part_of(second)
    if first is None or last is None or first.source is not last.source:
        return None
    width = (dims(first.source) or (None,))[-1]
    if not isinstance(width, int) or width % 2:
        return None
    halves = Part(first.source, 0, width // 2), Part(first.source, width // 2, width)
    return first.source if (first, last) == halves else None


def _negated(value: ir.Value | None) -> ir.Value | None:
    node = producer_of(value, "Neg", "Mul")
    if node is None:
        return None
    if node.op_type == "Neg":
        return node.inputs[0]
    for source, other in (node.inputs, node.inputs[::-1]):
        if number(other) == -1.0:
            return source
    return None


def _is_start(x: ir.Value) -> bool:
    part = part_of(x)
    return part is not None and part.start == 0


def _covers(start: Part, rest: Part) -> bool:
    width = (dims(start.source) or (None,))[-1]
    return start.start == 0 and start.end == rest.start and rest.end == width
