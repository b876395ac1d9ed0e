"""Reads attention backwards from the product of probabilities and values, in any spelling.

    softmax(factor * (q k^T) * ... + masks) v

From the second MatMul back to the first one the walk passes, in any order and number, what
exporters put there: Identity, Cast, Dropout, a guard against NaN around the Softmax, Mul and Div by
a number, Add of a mask or bias, Where with a number for what is masked out, and the capping of
scores `c * tanh(s / c)`. Behind the first MatMul a number may be multiplied to the query, to the
key, or its root to both. All of that becomes one scale, one list of masks and the operands with
their heads (`canonical.py`).
"""

from __future__ import annotations

import onnx_ir as ir

from onnxopt.graph.values import dims, int_attribute, ints_attribute, opset_version, rank
from onnxopt.passes.cleanup.single_node import producer_of
from onnxopt.passes.fusion.attention.canonical import MASKED, Attention, Mask, UnlikeError
from onnxopt.passes.fusion.attention.heads import joins_heads, key_heads, plain, query_heads
from onnxopt.passes.fusion.attention.products import leads_to_product, scores_and_other, unscaled
from onnxopt.passes.fusion.polynomials import number

_MOST_STEPS = 24


def read_attention(node: ir.Node, model: ir.Model) -> Attention | None:
    """Attention whose last MatMul is `node`, or None where there is no Softmax before it.

    Raises:
        UnlikeError: There is a Softmax, but the scores are not those of attention.
    """
    probabilities, guarded = _unguarded(_unjoined(node.inputs[0]))
    softmax = producer_of(probabilities, "Softmax")
    value = node.inputs[1]
    if softmax is None or value is None or not _over_last_axis(softmax, model):
        return None
    walk = _Walk()
    product = walk.to_product(softmax.inputs[0])
    (first, factor), (second, other_factor) = map(unscaled, product.inputs)
    straight, turned = query_heads(first), key_heads(second)
    heads = query_heads(value)
    if turned is None:
        raise UnlikeError(f"{second.name!r} is not a transposed key of rank 4")
    if straight is None or heads is None:
        raise UnlikeError("the query or the value has not 4 axes")
    query, key = (turned, straight) if walk.turned else (straight, turned)
    return Attention(
        query=query,
        key=key,
        value=heads,
        scale=walk.factor * factor * other_factor,
        masks=tuple(walk.masks),
        cap=walk.cap,
        guarded=guarded,
        output=node.outputs[0],
    )


class _Walk:
    """From the Softmax to the product of query and key.

    Attributes:
        factor: Product of the numbers on the way, of those before a cap if there is one.
        masks: What was added on the way.
        cap: The cap of the scores, or 0.
        turned: The product is that of the keys and transposed queries, transposed as a whole.
    """

    def __init__(self) -> None:
        self.factor = 1.0
        self.masks: list[Mask] = []
        self.cap = 0.0
        self.turned = False
        self._windowed = False
        self._rank: int | None = None  # of the scores at hand

    def to_product(self, value: ir.Value | None) -> ir.Node:
        for _ in range(_MOST_STEPS):
            value = plain(value)
            node = None if value is None else value.producer()
            if node is None or node.domain:
                break
            self._rank = rank(value)
            if node.op_type == "MatMul" and not self._windowed:
                return node
            step = {
                "Add": self._add, "Sub": self._sub, "Mul": self._scale, "Div": self._scale,
                "Where": self._where, "Reshape": self._regroup, "Transpose": self._turn,
            }.get(node.op_type)  # fmt: skip
            if step is None:
                raise UnlikeError(f"the scores pass through {node.op_type}")
            value = step(node)
        raise UnlikeError("no product of query and key is behind the Softmax")

    def _add(self, node: ir.Node) -> ir.Value:
        scores, mask = scores_and_other(node)
        self._append(mask, self.factor)
        return scores

    def _sub(self, node: ir.Node) -> ir.Value:
        scores, mask = node.inputs
        if not leads_to_product(scores) or scores is None:
            raise UnlikeError("the scores are subtracted from something")
        self._append(mask, -self.factor)
        return scores

    def _append(self, mask: ir.Value | None, factor: float) -> None:
        assert mask is not None
        self._check_mask(mask)
        self.masks.append(Mask(mask, factor, windowed=self._has_windows(mask)))

    def _check_mask(self, mask: ir.Value) -> None:
        if self.cap:
            raise UnlikeError("a mask is added before the scores are capped")
        if self.turned:
            raise UnlikeError("a mask is added before the scores are transposed")
        if self._rank == 3 and (dims(mask) or (None,))[0] != 1 and rank(mask) not in (0, 1, 2):
            raise UnlikeError("a mask is added to scores whose batch and heads are joined")

    def _has_windows(self, mask: ir.Value) -> bool:
        """True for a mask that meets scores with an axis of windows and has one of its own."""
        return self._windowed and rank(mask) not in range(4)

    def _scale(self, node: ir.Node) -> ir.Value:
        capped = self._capped(node)
        if capped is not None:
            return capped
        for value, other in (node.inputs, node.inputs[::-1]):
            factor = number(other, value)
            if factor and value is not None:
                self.factor *= factor if node.op_type == "Mul" else 1.0 / factor
                return value
            if node.op_type == "Div":
                break
        raise UnlikeError("the scores are multiplied by something that is no number")

    def _capped(self, node: ir.Node) -> ir.Value | None:
        """What is capped by `c * tanh(s / c)`."""
        if node.op_type != "Mul":
            return None
        for value, other in (node.inputs, node.inputs[::-1]):
            tanh = producer_of(plain(value), "Tanh")
            cap = number(other)
            if tanh is None or not cap:
                continue
            if self.factor != 1.0 or self.cap:
                raise UnlikeError("the scores are scaled after they were capped")
            self.cap, self.factor = cap, 1.0 / cap
            inside, factor = unscaled(tanh.inputs[0])
            self.factor = factor * cap
            return inside
        return None

    def _regroup(self, node: ir.Node) -> ir.Value:
        """Behind a Reshape of windows, or one that joins batch and heads or takes them apart."""
        source = node.inputs[0]
        before, after = dims(source), dims(node.outputs[0])
        if source is None or before is None or after is None:
            raise UnlikeError("the scores pass through a Reshape of unknown shapes")
        if joins_heads(before, after) or joins_heads(after, before):
            return source
        wide, narrow = (after, before) if self._windowed else (before, after)
        if (len(wide), len(narrow)) != (5, 4) or wide[2:] != narrow[1:] or None in narrow[1:]:
            raise UnlikeError("the scores pass through a Reshape that is none of windows")
        self._windowed = not self._windowed
        return source

    def _turn(self, node: ir.Node) -> ir.Value:
        """Behind a Transpose of the last two axes."""
        perm, source = ints_attribute(node, "perm"), node.inputs[0]
        size = 0 if perm is None else len(perm)
        if source is None or perm != (*range(size - 2), size - 1, size - 2) or self._windowed:
            raise UnlikeError("the scores pass through a Transpose of other axes than the last two")
        self.turned = not self.turned
        return source

    def _where(self, node: ir.Node) -> ir.Value:
        condition, first, second = node.inputs
        for scores, other, keep in ((first, second, True), (second, first, False)):
            fill = number(other)
            if fill is None or scores is None or condition is None:
                continue
            if not fill * self.factor <= MASKED:
                raise UnlikeError(f"masked scores are {fill * self.factor:g}, not -inf")
            self._check_mask(condition)
            low = fill * self.factor
            windowed = self._has_windows(condition)
            self.masks.append(Mask(condition, keep=keep, fill=low, windowed=windowed))
            return scores
        raise UnlikeError("the scores are chosen from something that is no number")


def _unjoined(value: ir.Value | None) -> ir.Value | None:
    """The probabilities behind a Reshape that joins batch and heads."""
    reshape = producer_of(plain(value), "Reshape")
    if reshape is None or not joins_heads(dims(reshape.inputs[0]), dims(reshape.outputs[0])):
        return value
    return reshape.inputs[0]


def _unguarded(value: ir.Value | None) -> tuple[ir.Value | None, bool]:
    """The probabilities behind Casts and a guard that makes NaN zero, and whether there is one."""
    value = plain(value)
    where = producer_of(value, "Where")
    if where is None:
        return value, False
    condition, first, second = where.inputs
    negated = producer_of(condition, "Not")
    isnan = producer_of(negated.inputs[0] if negated else condition, "IsNaN")
    kept, other = (first, second) if negated else (second, first)
    if isnan is None or isnan.inputs[0] is not kept or number(other) != 0.0:
        return value, False
    return plain(kept), True


def _over_last_axis(softmax: ir.Node, model: ir.Model) -> bool:
    # Before opset 13 the default is 1, with all axes behind it taken together.
    default = -1 if opset_version(softmax, model) >= 13 else 1
    axis, size = int_attribute(softmax, "axis", default), rank(softmax.outputs[0])
    return axis == -1 or (size is not None and axis == size - 1)
