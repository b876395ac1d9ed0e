"""A model inside of an If, to test rewrites in subgraphs."""

from __future__ import annotations

import onnx
import onnx.helper
import onnx_ir as ir

from onnxopt.graph.inference import infer_model


def in_branches(model: ir.Model) -> ir.Model:
    """The nodes of the model in both branches of an If on the new input `chosen`.

    Inputs and initializers stay outside, so that branches read them from the outer scope.
    """
    proto = ir.to_proto(model)
    graph = proto.graph
    made = [_branch(graph, name) for name in ("then_branch", "else_branch")]
    names = [output.name for output in graph.output]
    choice = onnx.helper.make_node("If", ["chosen"], names, **dict(made))
    del graph.node[:]
    del graph.value_info[:]
    graph.node.append(choice)
    graph.input.append(onnx.helper.make_tensor_value_info("chosen", onnx.TensorProto.BOOL, ()))
    result = ir.from_proto(proto)
    infer_model(result)
    return result


def branches_of(model: ir.Model) -> list[ir.Graph]:
    """The bodies that `in_branches` made."""
    return [attribute.as_graph() for attribute in model.graph[-1].attributes.values()]


def _branch(graph: onnx.GraphProto, name: str) -> tuple[str, onnx.GraphProto]:
    """The nodes with names of their own."""
    branch = onnx.GraphProto(name=name)
    renamed = {out: f"{name}_{out}" for node in graph.node for out in node.output if out}
    for node in graph.node:
        copy = branch.node.add()
        copy.CopyFrom(node)
        copy.name = f"{name}_{node.name}" if node.name else ""
        copy.input[:] = [renamed.get(one, one) for one in node.input]
        copy.output[:] = [renamed.get(one, one) for one in node.output]
    for output in graph.output:
        copy_of = branch.output.add()
        copy_of.CopyFrom(output)
        copy_of.name = renamed[output.name]
    return name, branch
