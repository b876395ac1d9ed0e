"""Where the channels of a value can be scaled without changing what a model computes.

    x = f(W u + b)          ->  x / s = f((W / s) u + b / s)      f(a z) = a f(z) for a > 0
    x = normalized * g + h  ->  x / s = normalized * (g / s) + h / s
    y = V x                 ->  y = (s V) (x / s)
    x  otherwise            ->  x / s = Mul(x, 1 / s)             where a Mul may be inserted

f is a chain of Relu, LeakyRelu and pooling, which take each channel on its own. All readers of x
have to be products with constant weights. Weights and biases that another node reads as well are
left alone, and so is what is in other graphs.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxopt.core.names import Names
from onnxopt.core.removal import drop_weight
from onnxopt.graph.products import Product, product_of
from onnxopt.graph.values import constant

_ELEMENTWISE = ("Relu", "LeakyRelu")
_POOLING = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
# Inputs that hold what every channel is multiplied with and what is added to it.
_NORMALIZATIONS = {
    "LayerNormalization": (1, 2),
    "RMSNormalization": (1,),
    "SimplifiedLayerNormalization": (1,),
}


@dataclasses.dataclass(frozen=True)
class Dividend:
    """A constant that is divided by the scales.

    Attributes:
        node: Who reads it.
        index: As which input.
        product: The node as a product if the constant is its weight.
    """

    node: ir.Node
    index: int
    product: Product | None = None


@dataclasses.dataclass(frozen=True)
class ChannelLink:
    """A value whose channels can be scaled.

    Attributes:
        value: What the consumers read.
        channels: How many channels it has.
        dividends: What is divided; the weight first, if a product makes the value. Without any, a
            Mul is inserted in front of the consumers.
        consumers: The products whose weights are multiplied.
    """

    value: ir.Value
    channels: int
    dividends: tuple[Dividend, ...]
    consumers: tuple[Product, ...]

    @property
    def producer(self) -> Product | None:
        """The product that makes the value; None if a normalization or anything else does."""
        return self.dividends[0].product if self.dividends else None

    @property
    def kind(self) -> str:
        """The operator that takes the division in."""
        return self.dividends[0].node.op_type if self.dividends else "inserted Mul"

    def apply(self, scales: NDArray[np.float32], names: Names) -> None:
        """Divides the value's channels by scales, and makes up for it in the consumers."""
        if not self.dividends:
            self._insert(scales, names)
        for one in self.dividends:
            array = constant(one.node.inputs[one.index])
            assert array is not None
            if one.product is not None:
                by_output = scales.reshape(one.product.groups, 1, -1)
                array = one.product.stored(one.product.matrices() / by_output)
            else:
                array = array / scales.reshape(-1)
            _replace(one.node, one.index, array, names)
        for product in self.consumers:
            scaled = product.matrices() * self.by_row(product, scales)[..., None]
            _replace(product.node, 1, product.stored(scaled), names)

    def _insert(self, scales: NDArray[np.float32], names: Names) -> None:
        graph, producer = self.consumers[0].node.graph, self.value.producer()
        assert isinstance(graph, ir.Graph)
        row = _initializer(graph, 1 / scales, names.unique(f"{self.value.name}_scales"))
        name = f"{self.value.name}_scaled"
        mul = ir.node("Mul", [self.value, row], name=names.unique_node(name))
        mul.outputs[0].name = names.unique(name)
        mul.outputs[0].type, mul.outputs[0].shape = self.value.type, self.value.shape
        if producer is not None and producer.graph is graph:
            graph.insert_after(producer, mul)
        else:
            graph.insert_before(graph[0], mul)
        for product in self.consumers:
            product.node.replace_input_with(0, mul.outputs[0])

    def by_row(self, product: Product, scales: NDArray[np.float32]) -> NDArray[np.float32]:
        """The scales of a consumer's rows, [groups, K]."""
        kernel = product.groups * product.length // self.channels
        return np.repeat(scales, kernel).reshape(product.groups, product.length)


def find_links(
    graph: ir.Graph, *, insert: bool = False
) -> tuple[list[ChannelLink], dict[str, str]]:
    """The links of a graph in topological order, and why products lack one, by node name.

    Args:
        graph: The graph.
        insert: Give values that nothing can be divided for links that insert a Mul; only values
            whose channels are the last axis, where it is cheap against the product.
    """
    products = {node: found for node in graph if (found := product_of(node)) is not None}
    links: list[ChannelLink] = []
    reasons: dict[str, str] = {}
    for value in dict.fromkeys(product.data for product in products.values()):
        link = _link(value, products)
        if insert and not isinstance(link, ChannelLink):
            link = _inserted(value, products) or link
        if isinstance(link, ChannelLink):
            links.append(link)
        elif link:
            reasons |= {user.name or user.op_type: link for user, _ in value.uses()}
    return links, reasons


def _link(value: ir.Value, products: dict[ir.Node, Product]) -> ChannelLink | str:
    """The link of a value, or why there is none; "" where nobody would expect one."""
    consumers = [products[user] for user, index in value.uses() if user in products and index == 0]
    channels = consumers[0].channels
    found = _dividends(value, channels, products, is_image=consumers[0].node.op_type == "Conv")
    if isinstance(found, str):
        return found
    if value.is_graph_output() or len(consumers) < len(value.uses()):
        return "its input is also read by what is no product of a constant weight"
    if any(one.channels != channels for one in consumers):
        return "the readers of its input do not agree on its channels"
    constants = [one.node.inputs[one.index] for one in found] + [one.weight for one in consumers]
    if any(c is None or len(c.uses()) != 1 or c.is_graph_output() for c in constants):
        return "a weight or bias that would be scaled has other readers"
    return ChannelLink(value, channels, tuple(found), tuple(consumers))


def _inserted(value: ir.Value, products: dict[ir.Node, Product]) -> ChannelLink | None:
    consumers = [products[user] for user, index in value.uses() if user in products and index == 0]
    channels = consumers[0].channels
    if any(one.node.op_type == "Conv" or one.channels != channels for one in consumers):
        return None
    if any(len(one.weight.uses()) != 1 or one.weight.is_graph_output() for one in consumers):
        return None
    return ChannelLink(value, channels, (), tuple(consumers))


def _dividends(
    value: ir.Value, channels: int, products: dict[ir.Node, Product], *, is_image: bool
) -> list[Dividend] | str:
    """What has to be divided for the value to be."""
    node = value.producer()
    moved = _ELEMENTWISE + (_POOLING if is_image else ())
    while node is not None and not node.domain and node.op_type in moved:
        source = node.inputs[0]
        if source is None or value is not node.outputs[0] or len(node.outputs[1:]):
            return ""
        if len(source.uses()) != 1 or source.is_graph_output():
            return "what is in front of its activation is read by others"
        value, node = source, source.producer()
    if node is None or node.domain not in ("", "com.microsoft") or value is not node.outputs[0]:
        return ""
    if node.op_type == "Clip":
        return "a Clip in front of it is not the same for scaled values"
    if node.op_type in _NORMALIZATIONS and not is_image:
        return _constants(node, _NORMALIZATIONS[node.op_type], channels)
    if node.op_type == "Mul" and not is_image:
        rows = [i for i, factor in enumerate(node.inputs) if _is_row(factor, channels)]
        return [Dividend(node, rows[0])] if len(rows) == 1 else ""
    found: list[Dividend] = []
    if node.op_type == "Add" and not is_image:
        rows = [i for i, term in enumerate(node.inputs) if _is_row(term, channels)]
        if len(rows) != 1:
            return ""
        found.append(Dividend(node, rows[0]))
        source = node.inputs[1 - rows[0]]
        if source is None or len(source.uses()) != 1 or source.is_graph_output():
            return ""
        node = source.producer()
    product = None if node is None else products.get(node)
    if product is None or (product.node.op_type == "Conv") != is_image:
        return ""
    if product.outputs != channels:
        return ""
    if len(product.node.inputs) > 2 and product.node.inputs[2] is not None:
        if not _is_row(product.node.inputs[2], channels):
            return "a bias in front of it is no row of constants"
        found.append(Dividend(product.node, 2))
    return [Dividend(product.node, 1, product), *found]


def _constants(node: ir.Node, indexes: tuple[int, ...], channels: int) -> list[Dividend] | str:
    given = [i for i in indexes if i < len(node.inputs) and node.inputs[i] is not None]
    if not all(_is_row(node.inputs[index], channels) for index in given):
        return ""
    return [Dividend(node, index) for index in given]


def _is_row(value: ir.Value | None, channels: int) -> bool:
    array = constant(value)
    if array is None or array.dtype != np.float32 or not array.ndim:
        return False
    return bool(array.size == array.shape[-1] == channels)


def _replace(node: ir.Node, index: int, array: NDArray[np.generic], names: Names) -> None:
    """Gives a node another constant; the old one goes if nobody reads it."""
    old = node.inputs[index]
    assert old is not None
    assert isinstance(node.graph, ir.Graph)
    new = _initializer(node.graph, array, names.unique(f"{old.name}_scaled"))
    node.replace_input_with(index, new)
    drop_weight(old)


def _initializer(graph: ir.Graph, array: NDArray[np.generic], name: str) -> ir.Value:
    array = np.ascontiguousarray(array, np.float32)
    value = ir.Value(name=name, const_value=ir.Tensor(array, name=name))
    value.shape, value.dtype = ir.Shape(array.shape), ir.DataType.FLOAT
    graph.register_initializer(value)
    return value
