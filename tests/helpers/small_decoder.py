"""A decoder of one layer with everything that rewrites get wrong: masks, positions, gates."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

WIDTH, HEADS, VOCABULARY, LONGEST = 32, 4, 64, 32


class _Builder:
    """Nodes named after their output."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(3)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, name: str, *shape: int, scale: float = 1.0, mean: float = 0.0) -> str:
        array = self.rng.standard_normal(shape) * scale + mean
        return self.constant(name, array.astype(np.float32))

    def constant(self, name: str, array: Any, dtype: Any = None) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(array, dtype), name))
        return name

    def add(self, op_type: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op_type, inputs, [output], output, **attributes))
        return output

    def linear(self, x: str, name: str, size: int, out: int) -> str:
        weight = self.weight(f"{name}.weight", size, out, scale=size**-0.5)
        product = self.add("MatMul", [x, weight], f"{name}.product")
        bias = self.weight(f"{name}.bias", out, scale=0.1)
        return self.add("Add", [product, bias], name)


def small_decoder() -> ir.Model:
    """Inputs `ids` and `mask` of `[batch, sequence]`, output `logits`; opset 18."""
    b = _Builder()
    zero, one = (b.constant(name, number, np.int64) for name, number in (("zero", 0), ("one", 1)))
    shape = b.add("Shape", ["ids"], "shape")
    length = b.add("Gather", [shape, one], "length", axis=0)
    positions = b.add("Range", [zero, length, one], "positions")
    table = b.weight("embedding", VOCABULARY, WIDTH)
    words = b.add("Gather", [table, "ids"], "words", axis=0)
    places = b.add("Gather", [b.weight("position_table", LONGEST, WIDTH), positions], "places")
    x = b.add("Add", [words, places], "embedded")
    x = b.add("Mul", [x, b.constant("amplitude", np.float32(120))], "hidden")

    square = b.add("Mul", [x, x], "norm.square")
    last = b.constant("last", [-1], np.int64)
    mean = b.add("ReduceMean", [square, last], "norm.mean", keepdims=1)
    sum_ = b.add("Add", [mean, b.constant("norm.epsilon", np.float32(1e-5))], "norm.sum")
    root = b.add("Sqrt", [sum_], "norm.root")
    unit = b.add("Div", [x, root], "norm.unit")
    normal = b.add("Mul", [unit, b.weight("norm.weight", WIDTH, scale=0.2, mean=1)], "norm")

    heads = {}
    split = b.constant("split", [0, 0, HEADS, WIDTH // HEADS], np.int64)
    for name in ("query", "key", "value"):
        y = b.linear(normal, name, WIDTH, WIDTH)
        y = b.add("Reshape", [y, split], f"{name}.split")
        perm = [0, 2, 3, 1] if name == "key" else [0, 2, 1, 3]
        heads[name] = b.add("Transpose", [y], f"{name}.heads", perm=perm)
    scores = b.add("MatMul", [heads["query"], heads["key"]], "scores")
    size = b.constant("head_size", np.float32((WIDTH // HEADS) ** -0.5))
    scores = b.add("Mul", [scores, size], "scaled")
    column = b.add("Unsqueeze", [positions, b.constant("axis1", [1], np.int64)], "column")
    row = b.add("Unsqueeze", [positions, b.constant("axis0", [0], np.int64)], "row")
    causal = b.add("LessOrEqual", [row, column], "causal")
    low = b.constant("low", np.float32(-1e4))
    scores = b.add("Where", [causal, scores, low], "causal_scores")
    mask = b.add("Unsqueeze", ["mask", b.constant("axes12", [1, 2], np.int64)], "mask4")
    mask = b.add("Cast", [mask], "mask_float", to=TensorProto.FLOAT)
    mask = b.add("Sub", [b.constant("unit", np.float32(1)), mask], "inverse_mask")
    mask = b.add("Mul", [mask, low], "mask_bias")
    scores = b.add("Add", [scores, mask], "masked_scores")
    weights = b.add("Softmax", [scores], "attention", axis=-1)
    mixed = b.add("MatMul", [weights, heads["value"]], "mixed")
    mixed = b.add("Transpose", [mixed], "merged", perm=[0, 2, 1, 3])
    flat = b.constant("flat", [0, 0, WIDTH], np.int64)
    mixed = b.add("Reshape", [mixed, flat], "joined")
    attended = b.linear(mixed, "output", WIDTH, WIDTH)
    x = b.add("Add", [unit, attended], "residual")

    scale, bias = b.weight("ln.weight", WIDTH, scale=0.2, mean=1), b.weight("ln.bias", WIDTH)
    normal = b.add("LayerNormalization", [x, scale, bias], "ln", axis=-1, epsilon=1e-5)
    gate = b.add("Sigmoid", [b.linear(normal, "gate", WIDTH, 2 * WIDTH)], "gate.sigmoid")
    up = b.linear(normal, "up", WIDTH, 2 * WIDTH)
    bounds = [b.constant("clip.low", np.float32(-1)), b.constant("clip.high", np.float32(1))]
    up = b.add("Clip", [up, *bounds], "clipped")
    inner = b.add("Mul", [gate, up], "gated")
    x = b.add("Add", [x, b.linear(inner, "down", 2 * WIDTH, WIDTH)], "final")
    b.linear(x, "logits", WIDTH, VOCABULARY)
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])
        for name in ("ids", "mask")
    ]
    outputs = [
        helper.make_tensor_value_info(
            "logits", TensorProto.FLOAT, ["batch", "sequence", VOCABULARY]
        )
    ]
    graph = helper.make_graph(b.nodes, "decoder", inputs, outputs, b.weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return ir.from_proto(model)
