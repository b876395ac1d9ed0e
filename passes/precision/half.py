"""float32 models in float16 or bfloat16.

    y = MatMul(x, w)  ->  y = Cast<float>(MatMul(Cast<half>(x), half(w)))

Every node whose schema takes the type at the model's opset computes in it; casts stand only where
a value passes from one type to the other, one per value and type. Inputs and outputs of the model
keep their types unless `io_types` is set. Large negative constants, which are masks, become -30000.

Left in float32, each with its reason: what `keep` names (what overflows, as measured); constants
beyond the range or too close to zero; quantization, random numbers, long sums; operators and
inputs that take no such type (the scales of Resize); sequences. The bodies of If, Loop and Scan are
converted like the main graph, between float32 inputs and outputs. Functions are left alone (inline
them first). With `storage` only large weights change, and are cast back when the model is loaded:
half the file, and the arithmetic stays.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections import Counter
from typing import ClassVar, Literal

import onnx_ir as ir

from onnxopt.core.names import Names
from onnxopt.core.passes import Pass, PassResult, Refusal
from onnxopt.core.removal import drop_weight
from onnxopt.core.walking import all_graphs
from onnxopt.graph.inference import infer_model
from onnxopt.graph.schema_types import SchemaTypes
from onnxopt.passes.precision.half_types import Slots, half_slots, is_float
from onnxopt.passes.precision.half_weights import constant_reason, half_tensor

Half = Literal["float16", "bfloat16"]

_TYPES = {"float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}
_RULE = "half"
_SMALLEST_STORED = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvertToHalf(Pass):
    """Computes in float16 or bfloat16 what these types can hold, with casts only at the borders.

    Attributes:
        to: "float16" or "bfloat16".
        keep: Names of nodes or of their outputs, or patterns, that stay in float32.
        io_types: Inputs and outputs of the model change their type as well.
        storage: Only the weights are stored in the type.
    """

    name: ClassVar[str] = "convert-to-half"

    to: Half = "float16"
    keep: tuple[str, ...] = ()
    io_types: bool = False
    storage: bool = False

    def call(self, model: ir.Model) -> PassResult:
        """Converts the main graph and its subgraphs; counts nodes and casts."""
        work = Conversion(model, self)
        if self.storage:
            return work.store()
        return work.convert()


class Conversion:
    """One run of the pass on a model."""

    def __init__(self, model: ir.Model, options: ConvertToHalf) -> None:
        infer_model(model)
        self.model = model
        self.options = options
        self.to = _TYPES[options.to]
        self.names = Names(model)
        self.rewrites: Counter[str] = Counter()
        self.refusals: list[Refusal] = []
        self._constants: dict[int, str] = {}
        self._cast: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        self._exact = frozenset(options.keep)
        self._patterns = [one for one in options.keep if any(c in one for c in "*?[")]

    def store(self) -> PassResult:
        """Only weights change; they are cast back."""
        for graph in all_graphs(self.model):
            for value in list(graph.initializers.values()):
                tensor = value.const_value
                if tensor is None or not is_float(value) or value.is_graph_output():
                    continue
                if tensor.size < _SMALLEST_STORED or value.is_graph_input():
                    continue
                reason = constant_reason(tensor, self.to)
                if reason:
                    self.refusals.append(Refusal(_RULE, value.name or "", reason))
                    continue
                half = self._half_constant(value, tensor, graph)
                node = ir.node("Cast", [half], {"to": ir.DataType.FLOAT.value})
                self._name(node, f"{value.name}_float")
                node.outputs[0].type, node.outputs[0].shape = value.type, value.shape
                value.replace_all_uses_with(node.outputs[0])
                _insert_first(graph, node)
                del graph.initializers[value.name or ""]
                self.rewrites["weight"] += 1
        return PassResult(self.model, self.rewrites, self.refusals)

    def choose(self) -> tuple[dict[ir.Node, Slots], set[ir.Value]]:
        """The nodes that compute in half precision, and the values that they make in it."""
        schemas = SchemaTypes(self.model.opset_imports)
        chosen: dict[ir.Node, Slots] = {}
        for graph in all_graphs(self.model):
            for node in graph:
                slots = half_slots(node, schemas, self.to)
                reason = slots.reason or self._reason(node, slots)
                if not reason and (slots.inputs or slots.outputs):
                    chosen[node] = slots
                elif (
                    reason and any(is_float(v) for v in node.outputs) and node.op_type != "Constant"
                ):
                    self.refusals.append(Refusal(_RULE, _label(node), reason))
        halves = {node.outputs[i] for node, slots in chosen.items() for i in slots.outputs}
        inputs = self.model.graph.inputs
        if self.options.io_types:
            halves |= {v for v in inputs if is_float(v) and not v.is_initializer()}
        return chosen, halves

    def convert(self) -> PassResult:
        """Nodes change their type; casts stand at the borders."""
        chosen, halves = self.choose()
        if not halves and not chosen:
            return PassResult(self.model, Counter(), self.refusals)
        self._outputs(halves)
        everything = [node for graph in all_graphs(self.model) for node in graph]
        for value in halves:
            value.dtype = self.to
        for node in everything:
            slots = chosen.get(node, Slots())
            for index, given in enumerate(node.inputs):
                if given is not None:
                    self._feed(node, index, given, index in slots.inputs, halves)
            if node in chosen:
                self._attributes(node)
                self.rewrites["node"] += 1
        return PassResult(self.model, self.rewrites, self.refusals)

    def _reason(self, node: ir.Node, slots: Slots) -> str:
        labels = [node.name or "", *(v.name or "" for v in node.outputs)]
        if not self._exact.isdisjoint(labels) or any(
            fnmatch.fnmatchcase(label, pattern) for pattern in self._patterns for label in labels
        ):
            return "it is to stay in float32"
        for index in slots.inputs:
            value = node.inputs[index]
            tensor = None if value is None else constant_tensor(value)
            if tensor is not None:
                if id(tensor) not in self._constants:
                    self._constants[id(tensor)] = constant_reason(tensor, self.to)
                if self._constants[id(tensor)]:
                    return self._constants[id(tensor)]
        return ""

    def _outputs(self, halves: set[ir.Value]) -> None:
        """Outputs of graphs keep their type and name: a cast makes them."""
        for graph in all_graphs(self.model):
            keeps = graph is not self.model.graph or not self.options.io_types
            for index, value in enumerate(graph.outputs):
                if value not in halves or not keeps:
                    continue
                node = ir.node("Cast", [value], {"to": ir.DataType.FLOAT.value})
                node.name = self.names.unique_node("Cast")
                new = node.outputs[0]
                new.type, new.shape, new.name = value.type, value.shape, value.name
                value.name = self.names.unique(f"{value.name}_half")
                value.type = ir.TensorType(ir.DataType.FLOAT)
                graph.append(node)
                graph.outputs[index] = new
                self._cast[value, ir.DataType.FLOAT] = new
                self.rewrites["cast"] += 1

    def _feed(
        self, node: ir.Node, index: int, value: ir.Value, wants_half: bool, halves: set[ir.Value]
    ) -> None:
        """Gives a node its input in the type that it reads."""
        if value in halves:
            reads = node.op_type in ("Shape", "Size") and not node.domain
            made_here = self._cast.get((value, ir.DataType.FLOAT))
            if (
                not wants_half
                and not reads
                and (made_here is None or node is not made_here.producer())
            ):
                node.replace_input_with(index, self._converted(value, ir.DataType.FLOAT))
        elif wants_half and is_float(value):
            tensor = constant_tensor(value)
            if tensor is None:
                node.replace_input_with(index, self._converted(value, self.to))
                return
            key = (value, self.to)
            if key not in self._cast:
                producer = value.producer()
                graph = value.graph if producer is None else producer.graph
                assert isinstance(graph, ir.Graph)
                self._cast[key] = self._half_constant(value, tensor, graph)
                # Or the shape alone would keep the float32 weight in the file.
                for user, place in tuple(value.uses()):
                    if user.op_type in ("Shape", "Size") and not user.domain:
                        user.replace_input_with(place, self._cast[key])
            node.replace_input_with(index, self._cast[key])
            drop_weight(value)

    def _converted(self, value: ir.Value, to: ir.DataType) -> ir.Value:
        """The value in another type; a cast beside its producer, made once."""
        if (value, to) in self._cast:
            return self._cast[value, to]
        node = ir.node("Cast", [value], {"to": to.value})
        self._name(node, f"{value.name}_{to.name.lower()}")
        node.outputs[0].type, node.outputs[0].shape = ir.TensorType(to), value.shape
        producer = value.producer()
        if producer is not None and isinstance(producer.graph, ir.Graph):
            producer.graph.insert_after(producer, node)
        else:
            assert isinstance(value.graph, ir.Graph)
            _insert_first(value.graph, node)
        self._cast[value, to] = node.outputs[0]
        self.rewrites["cast"] += 1
        return node.outputs[0]

    def _half_constant(
        self, value: ir.Value, tensor: ir.TensorProtocol, graph: ir.Graph
    ) -> ir.Value:
        name = self.names.unique(f"{value.name}_{self.options.to}")
        half = half_tensor(tensor, self.to, name)
        new = ir.Value(
            name=name, type=ir.TensorType(self.to), shape=ir.Shape(tensor.shape.numpy()),
            const_value=half,
        )  # fmt: skip
        graph.register_initializer(new)
        return new

    def _attributes(self, node: ir.Node) -> None:
        """Types that a node says itself."""
        if node.op_type == "Cast" and node.outputs[0].dtype == self.to:
            node.attributes["to"] = ir.AttrInt64("to", self.to.value)
        elif node.op_type == "ConstantOfShape" and node.outputs[0].dtype == self.to:
            attribute = node.attributes.get("value")
            tensor = (
                ir.tensor([0.0], ir.DataType.FLOAT) if attribute is None else attribute.as_tensor()
            )
            node.attributes["value"] = ir.AttrTensor("value", half_tensor(tensor, self.to, "value"))

    def _name(self, node: ir.Node, base: str) -> None:
        node.name = self.names.unique_node("Cast")
        node.outputs[0].name = self.names.unique(base)


def constant_tensor(value: ir.Value) -> ir.TensorProtocol | None:
    """The data of an initializer that nobody can replace, or of a Constant node."""
    if value.is_graph_input():
        return None
    producer = value.producer()
    if producer is None:
        return value.const_value
    if producer.op_type != "Constant" or producer.domain:
        return None
    return ir.convenience.get_const_tensor(value)


def _label(node: ir.Node) -> str:
    return node.name or (node.outputs[0].name or "" if node.outputs else "")


def _insert_first(graph: ir.Graph, node: ir.Node) -> None:
    first = next(iter(graph), None)
    if first is None:
        graph.append(node)
    else:
        graph.insert_before(first, node)
