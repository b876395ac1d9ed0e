"""`residual_blocks`: the branches that a residual stream can do without.

    s = x + f(x)                                 a block: without it s = x
    s = Relu(x + f(x)), x from a Relu            the Relu goes, too
    s = Norm(x + f(x)), f reads x as it is       so does the normalization (BERT)
    n, s = SkipLayerNormalization(x, f(x))       n = LayerNormalization(x) stays where s is read

A block is told by the identity of its entry: one side of a sum is an ancestor of the other. Its
branch has weights of Conv, Gemm or MatMul that nothing else needs, so that x + x^3 of a Gelu is
none. Of nested blocks the inner ones count.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import onnx_ir as ir

from onnxopt.core.walking import used_values
from onnxopt.graph.linear_maps import linear_maps
from onnxopt.graph.values import same_shape

_SUMS = frozenset({"Add", "Sum"})
# Fused sums, and which of their inputs is the bias of the branch's last product, which they add.
SKIP_BIAS = {"SkipLayerNormalization": 4, "SkipSimplifiedLayerNormalization": 3}
_NORMALIZATIONS = frozenset(
    {"LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"}
)
# A branch with one of these mixes positions, as the first half of a transformer's layer does.
_ATTENTION = frozenset({"Attention", "GroupQueryAttention", "MultiHeadAttention", "Softmax"})
_NORMALIZES_SINCE = 17
# Output of the fused sums that is the sum.
_SUM = 3
# Longer branches are not looked at, so that the cost stays linear.
_MOST_NODES = 2000


@dataclasses.dataclass(frozen=True)
class Block:
    """A residual branch.

    Attributes:
        name: That of its first Conv, Gemm or MatMul.
        entry: What it reads and is added to.
        end: What the entry can stand in for.
        nodes: The nodes that only the branch needs, in order, with those that give the end.
        weights: The initializers that only these read.
        obstacle: Why the block has to stay; "" if it can go.
    """

    name: str
    entry: ir.Value
    end: ir.Value
    nodes: tuple[ir.Node, ...]
    weights: tuple[ir.Value, ...]
    obstacle: str = ""

    @property
    def is_attention(self) -> bool:
        """True if the branch mixes positions by attention."""
        return any(node.op_type in _ATTENTION for node in self.nodes)


@dataclasses.dataclass(frozen=True)
class Span:
    """Blocks one behind the other that go together.

    Attributes:
        kind: "block", or "layer" for a block with attention and what follows up to the next one.
        blocks: In order.
    """

    kind: str
    blocks: tuple[Block, ...]

    @property
    def name(self) -> str:
        """That of the first block."""
        return self.blocks[0].name

    @property
    def entry(self) -> ir.Value:
        """What the first block reads."""
        return self.blocks[0].entry

    @property
    def end(self) -> ir.Value:
        """What the last block gives."""
        return self.blocks[-1].end

    @property
    def obstacle(self) -> str:
        """Why it has to stay; "" if it can go."""
        return next((block.obstacle for block in self.blocks if block.obstacle), "")


def residual_blocks(model: ir.Model) -> list[Block]:
    """All blocks of the main graph, in its order.

    Args:
        model: In topological order, with inferred shapes.
    """
    place = {node: number for number, node in enumerate(model.graph)}
    linear = {site.node for site in linear_maps(model)}
    opset = model.opset_imports.get("", 1)
    found: list[Block] = []
    taken: set[ir.Node] = set()
    for node in model.graph:
        for entry, branch in _sides(node):
            within = _between(entry, branch, place)
            block = _block(node, entry, within, linear, opset) if within else None
            if block is not None and not taken & set(within):
                found.append(block)
                taken.add(node)
                break
    return found


def spans(blocks: list[Block], kind: str) -> list[Span]:
    """Blocks as what is removed at once.

    Args:
        blocks: In order.
        kind: "block" or "layer". Without attention every block is a layer.
    """
    runs: list[list[Block]] = []
    for block in blocks:
        last = runs[-1][-1] if runs else None
        follows = last is not None and last.end is block.entry
        starts = block.is_attention and last is not None and not last.is_attention
        within = kind == "layer" and any(one.is_attention for one in (runs[-1] if runs else ()))
        if follows and within and not starts:
            runs[-1].append(block)
        else:
            runs.append([block])
    return [Span(kind, tuple(run)) for run in runs]


def _skip_bias(skip: ir.Node) -> ir.Value | None:
    place = SKIP_BIAS[skip.op_type]
    return skip.inputs[place] if len(skip.inputs) > place else None


def _sides(node: ir.Node) -> Iterator[tuple[ir.Value, ir.Value]]:
    """What may be the entry and the branch of a sum."""
    plain = node.op_type in _SUMS and not node.domain and len(node.inputs) == 2
    if not (plain or _is_skip(node)):
        return
    one, other = node.inputs[0], node.inputs[1]
    if one is None or other is None or one is other:
        return
    for entry, branch in ((one, other), (other, one)):
        # What the branch adds may broadcast, as long as the entry does not. The fused operators
        # give what has the shape of their first input.
        whole = node.outputs[0] if plain else one
        stands_in = entry is whole or same_shape(entry, whole)
        if branch.producer() is not None and stands_in and not entry.is_initializer():
            yield entry, branch


def _between(entry: ir.Value, branch: ir.Value, place: dict[ir.Node, int]) -> tuple[ir.Node, ...]:
    """The nodes on all ways from the entry to the branch's value; none if it does not get there."""
    source = entry.producer()
    first = -1 if source is None else place[source]
    seen: set[ir.Node] = set()
    pending = [branch.producer()]
    while pending:
        node = pending.pop()
        if node is None or node in seen or place.get(node, -1) <= first:
            continue
        seen.add(node)
        if len(seen) > _MOST_NODES:
            return ()
        pending += [value.producer() for value in used_values(node)]
    behind = set(_with_normalized(entry))
    within = []
    for node in sorted(seen, key=place.__getitem__):
        if any(value in behind for value in used_values(node)):
            behind.update(node.outputs)
            within.append(node)
    return tuple(within) if branch in behind else ()


def _block(
    node: ir.Node,
    entry: ir.Value,
    within: tuple[ir.Node, ...],
    linear: set[ir.Node],
    opset: int,
) -> Block | None:
    """The block that a sum ends, if its branch has weights of its own."""
    gone = {node}
    for inner in reversed(within):
        used = [use.node for value in inner.outputs for use in value.uses()]
        if gone.issuperset(used) and not any(value.is_graph_output() for value in inner.outputs):
            gone.add(inner)
    own = [inner for inner in within if inner in gone]
    first = next((inner for inner in own if inner in linear), None)
    if first is None:
        return None
    end, last = _end(node, entry, within)
    gone.update(last)
    read = {v: None for inner in own + last for v in inner.inputs if v is not None}
    alone = [v for v in read if all(use.node in gone for use in v.uses())]
    return Block(
        first.name or first.outputs[0].name or "",
        entry,
        end,
        (*own, *last),
        tuple(v for v in alone if v.is_initializer() and not v.is_graph_output()),
        _obstacle(node, entry, end, within, alone, opset),
    )


def _obstacle(
    node: ir.Node,
    entry: ir.Value,
    end: ir.Value,
    within: tuple[ir.Node, ...],
    alone: list[ir.Value],
    opset: int,
) -> str:
    """Why the block cannot go."""
    for inner in within:
        for value in inner.outputs:
            if value.is_graph_output():
                return f"it gives graph output {value.name!r}"
    for value in alone:
        if value.is_graph_input() and value is not entry:
            return f"nothing else reads graph input {value.name!r}"
    bias = _skip_bias(node) if _is_skip(node) else None
    if bias is not None and not bias.is_initializer():
        return f"{node.op_type} {node.name!r} adds {bias.name!r} to the sum, which is no weight"
    if _is_skip(node) and end is node.outputs[0] and _is_normalized_first(entry, node, within):
        return f"{node.op_type} {node.name!r} gives no sum, only what is normalized"
    if _is_skip(node) and end is not node.outputs[0] and opset < _NORMALIZES_SINCE:
        return f"without it LayerNormalization is needed, which came with opset {_NORMALIZES_SINCE}"
    return ""


def _end(
    node: ir.Node, entry: ir.Value, within: tuple[ir.Node, ...]
) -> tuple[ir.Value, list[ir.Node]]:
    """The value that the entry can stand in for, and the nodes from the sum on that give it."""
    if _is_skip(node):
        total = node.outputs[_SUM] if len(node.outputs) > _SUM else None
        is_read = total is not None and (total.uses() or total.is_graph_output())
        return total if total is not None and is_read else node.outputs[0], [node]
    value = node.outputs[0]
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output() or uses[0].node.graph is not node.graph:
        return value, [node]
    user, source = uses[0].node, entry.producer()
    if user.op_type == "Relu" and source is not None and source.op_type == "Relu":
        return user.outputs[0], [node, user]
    # What follows the last block of a stage may be a normalization that starts the next stage.
    is_norm = user.op_type in _NORMALIZATIONS and uses[0].idx == 0
    was_norm = source is not None and source.op_type in _NORMALIZATIONS
    if is_norm and was_norm and not _is_normalized_first(entry, node, within):
        return user.outputs[0], [node, user]
    return value, [node]


def _is_normalized_first(entry: ir.Value, node: ir.Node, within: tuple[ir.Node, ...]) -> bool:
    """True if the branch sees the entry behind a normalization only."""
    readers = [inner for inner in within if entry in inner.inputs]
    return all(reader.op_type in _NORMALIZATIONS for reader in readers)


def _is_skip(node: ir.Node | None) -> bool:
    return node is not None and node.op_type in SKIP_BIAS and node.domain == "com.microsoft"


def _with_normalized(entry: ir.Value) -> list[ir.Value]:
    """A sum, and what the operator that adds gives of it normalized."""
    source = entry.producer()
    return list(source.outputs) if source is not None and _is_skip(source) else [entry]
