"""Which nodes of a graph are computed on integers: regions as large and closed as possible.

Anchors (Conv, Gemm, MatMul) are wanted. A join or a copy is taken only where it keeps values
integer that are so anyway: all its inputs are, and for a join something behind it wants integers.
A depthwise Conv is slower on integers but counts as a join: between two pairs ONNX Runtime would
quantize its weight by itself, with one scale for all channels.
Taking one away can cost its neighbours their reason, so this goes on until nothing changes.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir

from onnxopt.graph.integer_kernels import (
    HARD_ACTIVATIONS,
    WITHOUT_KERNEL,
    Part,
    absorbed_by_range,
    activations_of,
    is_thin,
    multiplies_activations,
    part_of,
)
from onnxopt.graph.quantization import is_finite
from onnxopt.graph.values import constant, dims, int_attribute, static_dims

_THIN = "depthwise or thinly grouped, and not between two quantized nodes: slower on integers"


class Regions:
    """The plan for one graph.

    Args:
        graph: The graph, with inferred types.
        ranges: Names of values whose range is known.
        exclude: Globs of node names to leave in float.
        op_types: Types of anchors to quantize.
        thin: Take depthwise Convs and the like everywhere, not only between others.
        joins: Take Add, Mul, pooling and the like as well.
        absorb: Let ranges do what Relu and Clip do.
        least_work: Leave anchors with fewer multiplications per output in float.
        products: Take MatMuls of two activations as well.

    Attributes:
        parts: The nodes that are taken.
        reasons: Why anchors are not taken.
    """

    def __init__(
        self,
        graph: ir.Graph,
        ranges: Mapping[str, object],
        *,
        exclude: Sequence[str] = (),
        op_types: Sequence[str] = ("Conv", "Gemm", "MatMul"),
        thin: bool = False,
        joins: bool = True,
        absorb: bool = True,
        least_work: int = 0,
        products: bool = False,
    ) -> None:
        self._ranges = ranges
        self._products = products
        self._least_work = least_work
        self._absorb = absorb
        self.parts: dict[ir.Node, Part] = {}
        self.reasons: dict[ir.Node, str] = {}
        for node in graph:
            part = part_of(node)
            if part == "anchor" and node.op_type not in op_types:
                continue
            reason = self._refusal(node, part, exclude)
            if reason:
                if part == "anchor" or node.op_type in WITHOUT_KERNEL:
                    self.reasons[node] = reason
            elif part == "anchor" and is_thin(node) and not thin:
                self.parts[node] = "join"
                self.reasons[node] = _THIN
            elif node.op_type in HARD_ACTIVATIONS and not absorb:
                continue
            elif part is not None and (joins or part != "join"):
                self.parts[node] = part
        while self._prune():
            pass
        self.reasons = {node: r for node, r in self.reasons.items() if node not in self.parts}

    def output(self, node: ir.Node) -> ir.Value:
        """The value that is quantized behind a node: behind the Relu that its range absorbs."""
        value = node.outputs[0]
        users = value.consumers()
        if (
            self._absorb
            and len(users) == 1
            and not value.is_graph_output()
            and node.op_type in ("Conv", "Gemm", "Add", "MatMul")
            and absorbed_by_range(users[0])
            and users[0].graph is node.graph
            and users[0].outputs[0].name in self._ranges
        ):
            return users[0].outputs[0]
        return value

    def wants_integers(self, value: ir.Value) -> bool:
        """True if a node that is taken reads the value as an activation."""
        return any(
            user in self.parts and index in activations_of(user) for user, index in value.uses()
        )

    def gives_integers(self, value: ir.Value) -> bool:
        """True if the value is quantized behind a node that is taken."""
        node = self.maker(value)
        if node is None:
            return False
        # Products of MatMul and Gemm are left in float, exact, where nobody wants integers.
        return node.op_type not in ("MatMul", "Gemm") or any(
            user in self.parts and self.parts[user] == "anchor" for user, _ in value.uses()
        )

    def maker(self, value: ir.Value) -> ir.Node | None:
        """The node that is taken and behind which the value lies."""
        node = value.producer()
        if node is not None and node not in self.parts and absorbed_by_range(node):
            source = node.inputs[0]
            node = None if source is None else source.producer()
        taken = node is not None and node in self.parts and self.output(node) is value
        return node if taken else None

    def _refusal(self, node: ir.Node, part: Part | None, exclude: Sequence[str]) -> str:
        if part is None:
            return WITHOUT_KERNEL.get(node.op_type, "no integer kernel") if not node.domain else ""
        name = node.name or ""
        if any(fnmatch.fnmatchcase(name, glob) for glob in exclude):
            return "excluded"
        if part == "anchor":
            of_activations = self._products and multiplies_activations(node)
            reason = "" if of_activations else weight_refusal(node)
            if reason:
                return reason
            work = multiplications(node)
            if work < self._least_work and not is_thin(node):
                return f"{work} multiplications per output are too few to pay"
        for value in self._values(node):
            if value.dtype != ir.DataType.FLOAT:
                return f"its values are of type {value.dtype}"
            array = constant(value)
            if array is None and value.name not in self._ranges:
                return f"no range of {value.name!r} is known"
            if array is not None and not is_finite(array):
                return f"{value.name!r} holds NaN or infinity"
        return ""

    def _values(self, node: ir.Node) -> Iterator[ir.Value]:
        for index in activations_of(node):
            value = node.inputs[index] if index < len(node.inputs) else None
            if value is not None:
                yield value
        yield self.output(node)

    def _prune(self) -> bool:
        """Takes away what has no reason to be there; True if something was."""
        dropped = [node for node, part in self.parts.items() if not self._justified(node, part)]
        for node in dropped:
            del self.parts[node]
        return bool(dropped)

    def _justified(self, node: ir.Node, part: Part) -> bool:
        if part == "anchor":
            return True
        inputs = [node.inputs[index] for index in activations_of(node)]
        integer = [
            value
            for value in inputs
            if value is not None
            and (constant(value) is None)
            and (self.gives_integers(value) or self._anchored(value))
        ]
        computed = [v for v in inputs if v is not None and constant(v) is None]
        if not computed or len(integer) < len(computed):
            return False
        return part == "copy" or self.wants_integers(self.output(node))

    def _anchored(self, value: ir.Value) -> bool:
        return any(
            self.parts.get(user) == "anchor" and index in activations_of(user)
            for user, index in value.uses()
        )


def multiplications(node: ir.Node) -> int:
    """How many multiplications an output element of a Conv, Gemm or MatMul takes."""
    weight = node.inputs[1]
    if multiplies_activations(node):
        length = (dims(weight) or (None, None))[-2:][0]
        return length if isinstance(length, int) else 1
    shape = static_dims(weight) or (1,)
    axis = 0 if node.op_type == "Conv" or int_attribute(node, "transB", 0) else len(shape) - 1
    return math.prod(shape) // max(shape[axis], 1)


def weight_refusal(node: ir.Node) -> str:
    """Why the weight of a Conv, Gemm or MatMul cannot be quantized, or ""."""
    weight = constant(node.inputs[1])
    if weight is None:
        return (
            "both operands are computed" if node.op_type == "MatMul" else "the weight is computed"
        )
    if weight.dtype != "float32":
        return f"its weight is of type {weight.dtype}"
    if node.op_type == "MatMul" and weight.ndim != 2:
        return f"its weight has {weight.ndim} dimensions, not 2"
    for value in node.inputs[1:]:
        if value is None:
            continue
        array = constant(value)
        if array is None:
            return "its bias is computed"
        if not is_finite(array):
            return f"{value.name!r} holds NaN or infinity"
    if node.op_type == "Gemm":
        beta, alpha, trans_a = (node.attributes.get(n) for n in ("beta", "alpha", "transA"))
        if any(a is not None and a.as_float() != 1.0 for a in (alpha, beta)):
            return "alpha or beta is not 1"
        if trans_a is not None and trans_a.as_int():
            return "its first operand is transposed"
    return ""
