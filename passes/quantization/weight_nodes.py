"""The operators that read a quantized weight.

operators   MatMul(x, W)       -> com.microsoft.MatMulNBits(x, q, scales, zeros)
            Gemm(x, W, c)      -> MatMulNBits(x, q, scales, zeros, -, c), or MatMulNBits, Add
            Gather(T, i)       -> com.microsoft.GatherBlockQuantized(q, i, scales, zeros)
standard    MatMul(x, W)       -> MatMul(x, DequantizeLinear(q, scales, zeros))      opset 21
            Gemm(x, W, c)      -> the same with Gemm
            Gather(T, i)       -> DequantizeLinear(Gather(q, i), Gather(scales, i), ...)

ONNX Runtime makes MatMulNBits of DequantizeLinear and MatMul itself where it has the kernel. Gather
takes the integers first, or every run would expand the whole table.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxopt.core.names import Names
from onnxopt.graph.lazy_weights import QuantizedWeight
from onnxopt.passes.quantization.weight_sites import WeightSite, bias_of

DOMAIN = "com.microsoft"


def rewrite_site(
    site: WeightSite,
    weight: QuantizedWeight,
    names: Names,
    *,
    standard: bool,
    accuracy_level: int,
) -> None:
    """Makes the users of a weight read its integers."""
    parts = _register(site, weight, names)
    for node in site.users:
        if standard:
            _standard(node, site, weight, parts, names)
        elif site.kind == "lookup":
            _lookup(node, weight, parts)
        else:
            _product(node, site, weight, parts, accuracy_level, names)


def _register(site: WeightSite, weight: QuantizedWeight, names: Names) -> dict[str, ir.Value]:
    """The parts of the weight as initializers of the graph that the weight is in."""
    producer = site.value.producer()
    graph = site.value.graph if producer is None else producer.graph
    assert isinstance(graph, ir.Graph)
    parts = {}
    for part, tensor in weight.tensors().items():
        name = names.unique(f"{site.name}_{part}{weight.encoding.bits if part == 'data' else ''}")
        value = ir.Value(
            name=name,
            type=ir.TensorType(tensor.dtype),
            shape=ir.Shape(tensor.shape.numpy()),
            const_value=tensor,
        )
        graph.register_initializer(value)
        parts[part] = value
    return parts


def _product(
    node: ir.Node,
    site: WeightSite,
    weight: QuantizedWeight,
    parts: dict[str, ir.Value],
    accuracy_level: int,
    names: Names,
) -> None:
    length, columns = site.length, site.shape[1 - site.axis]
    bias, is_vector = bias_of(node, columns)
    inputs = [node.inputs[0], parts["data"], parts["scales"], parts.get("zeros")]
    if bias is not None and is_vector:
        inputs += [None, bias]
    elif inputs[-1] is None:
        inputs.pop()
    attributes = {
        "K": length,
        "N": columns,
        "bits": weight.encoding.bits,
        "block_size": weight.encoding.block_for(length),
    }
    if accuracy_level:
        attributes["accuracy_level"] = accuracy_level
    product = ir.node("MatMulNBits", inputs, attributes, domain=DOMAIN, name=node.name, version=1)
    nodes = [product]
    if bias is not None and not is_vector:
        product.outputs[0].name = names.unique(f"{node.outputs[0].name}_product")
        product.outputs[0].type = node.outputs[0].type
        nodes.append(ir.node("Add", [product.outputs[0], bias], name=names.unique_node("Add")))
    _replace(node, nodes)


def _lookup(node: ir.Node, weight: QuantizedWeight, parts: dict[str, ir.Value]) -> None:
    inputs = [parts["data"], node.inputs[1], parts["scales"]]
    if "zeros" in parts:
        inputs.append(parts["zeros"])
    attributes = {
        "bits": weight.encoding.bits,
        "block_size": weight.encoding.block_for(weight.shape[1]),
        "gather_axis": 0,
        "quantize_axis": 1,
    }
    lookup = ir.node(
        "GatherBlockQuantized", inputs, attributes, domain=DOMAIN, name=node.name, version=1
    )
    _replace(node, [lookup])


def _standard(
    node: ir.Node,
    site: WeightSite,
    weight: QuantizedWeight,
    parts: dict[str, ir.Value],
    names: Names,
) -> None:
    size = weight.encoding.block_size
    attributes = {"axis": site.axis if size else 1 - site.axis, "block_size": size}
    order = [part for part in ("data", "scales", "zeros") if part in parts]
    if site.kind == "product":
        expand = ir.node(
            "DequantizeLinear",
            [parts[part] for part in order],
            attributes,
            name=names.unique_node(f"{site.name}_dequantize"),
        )
        expand.outputs[0].name = names.unique(f"{site.name}_values")
        expand.outputs[0].type = ir.TensorType(site.tensor.dtype)
        expand.outputs[0].shape = ir.Shape(site.shape)
        assert isinstance(node.graph, ir.Graph)
        node.graph.insert_before(node, expand)
        node.replace_input_with(1, expand.outputs[0])
        return
    taken = []
    for part in order:
        gather = ir.node(
            "Gather", [parts[part], node.inputs[1]], {"axis": 0},
            name=names.unique_node(f"{node.name}_{part}"),
        )  # fmt: skip
        gather.outputs[0].name = names.unique(f"{node.outputs[0].name}_{part}")
        gather.outputs[0].type = parts[part].type
        taken.append(gather)
    attributes["axis"] = -1
    expand = ir.node(
        "DequantizeLinear", [gather.outputs[0] for gather in taken], attributes, name=node.name
    )
    _replace(node, [*taken, expand])


def _replace(node: ir.Node, nodes: list[ir.Node]) -> None:
    """Puts nodes in the place of one; the last one makes its output."""
    old, new = node.outputs[0], nodes[-1].outputs[0]
    new.type, new.shape = old.type, old.shape
    assert isinstance(node.graph, ir.Graph)
    ir.convenience.replace_nodes_and_values(node.graph, node, [node], nodes, [old], [new])
