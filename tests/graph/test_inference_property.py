"""Random shape computations: what inference says of them holds in ONNX Runtime, folded or not."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import sympy
from helpers.rewriting import run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnxopt.graph.inference import Inference, infer_model
from onnxopt.passes.cleanup.constants import FoldConstants

SIZES = ({"N": 0, "S": 3}, {"N": 1, "S": 2}, {"N": 3, "S": 1}, {"N": 2, "S": 7})


class ChainBuilder:
    """A graph over 1-d int64 tensors of known length that all become outputs."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw
        self.x = ir.Value(
            name="x", shape=ir.Shape(["N", 4, "S"]), type=ir.TensorType(ir.DataType.FLOAT)
        )
        self.nodes: list[ir.Node] = []
        self.initializers: list[ir.Value] = []
        self.vectors: list[tuple[ir.Value, int]] = []
        start, end = draw(st.sampled_from([(0, 3), (1, 3), (0, 2), (-1, 3)]))
        shape = self.add("Shape", [self.x], start=start, end=end)
        self.vectors.append((shape, len(range(3)[start:end])))

    def add(self, op_type: str, inputs: list[ir.Value], **attributes: Any) -> ir.Value:
        node = ir.node(op_type, inputs, attributes=attributes)
        node.outputs[0].name = f"v{len(self.nodes)}"
        self.nodes.append(node)
        return node.outputs[0]

    def constant(self, *items: int, scalar: bool = False) -> ir.Value:
        array = np.array(items[0] if scalar else items, np.int64)
        name = f"c{len(self.initializers)}"
        value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        value.shape, value.dtype = ir.Shape(array.shape), ir.DataType.INT64
        self.initializers.append(value)
        return value

    def step(self) -> None:
        draw = self.draw
        vector, length = draw(st.sampled_from(self.vectors))
        other, other_length = draw(st.sampled_from(self.vectors))
        number = draw(st.integers(1, 6))
        kind = draw(st.sampled_from(sorted(_STEPS)))
        made = _STEPS[kind](self, vector, length, other, other_length, number)
        if made is not None:
            self.vectors.append(made)

    def model(self) -> ir.Model:
        outputs = [node.outputs[0] for node in self.nodes]
        for value in outputs:
            value.type = value.type or ir.TensorType(ir.DataType.INT64)
        graph = ir.Graph(
            [self.x],
            outputs,
            nodes=self.nodes,
            initializers=self.initializers,
            opset_imports={"": 18},
            name="g",
        )
        return ir.Model(graph, ir_version=9)


def _gather(b: ChainBuilder, v: ir.Value, n: int, w: ir.Value, m: int, k: int) -> Any:
    indices = b.draw(st.lists(st.integers(-n, n - 1), min_size=1, max_size=3))
    return b.add("Gather", [v, b.constant(*indices)], axis=0), len(indices)


def _scalar(b: ChainBuilder, v: ir.Value, n: int, w: ir.Value, m: int, k: int) -> Any:
    item = b.add("Gather", [v, b.constant(k % n, scalar=True)], axis=0)
    return b.add("Unsqueeze", [item, b.constant(0)]), 1


def _concat(b: ChainBuilder, v: ir.Value, n: int, w: ir.Value, m: int, k: int) -> Any:
    return (b.add("Concat", [v, w], axis=0), n + m) if n + m <= 8 else None


def _slice(b: ChainBuilder, v: ir.Value, n: int, w: ir.Value, m: int, k: int) -> Any:
    start = k % n
    ends = b.constant(b.draw(st.sampled_from([n, 2**63 - 1])))
    return b.add("Slice", [v, b.constant(start), ends, b.constant(0)]), n - start


def _product(b: ChainBuilder, v: ir.Value, n: int, w: ir.Value, m: int, k: int) -> Any:
    op_type = b.draw(st.sampled_from(["ReduceProd", "ReduceSum", "ReduceMax", "ReduceMin"]))
    return b.add(op_type, [v], keepdims=1), 1


def _where(b: ChainBuilder, v: ir.Value, n: int, w: ir.Value, m: int, k: int) -> Any:
    op_type = b.draw(st.sampled_from(["Equal", "Less", "Greater", "LessOrEqual"]))
    condition = b.add(op_type, [v, b.constant(b.draw(st.integers(-2, 4)))])
    condition.type = ir.TensorType(ir.DataType.BOOL)
    return b.add("Where", [condition, b.constant(k), v]), n


def _arithmetic(b: ChainBuilder, v: ir.Value, n: int, w: ir.Value, m: int, k: int) -> Any:
    op_type = b.draw(st.sampled_from(["Add", "Sub", "Mul", "Div", "Max", "Min", "Mod"]))
    number = b.constant(k)
    flipped = op_type not in ("Div", "Mod") and b.draw(st.booleans())
    return b.add(op_type, [number, v] if flipped else [v, number]), n


def _binary(b: ChainBuilder, v: ir.Value, n: int, w: ir.Value, m: int, k: int) -> Any:
    if n != m and 1 not in (n, m):
        return None
    op_type = b.draw(st.sampled_from(["Add", "Sub", "Mul", "Max", "Min"]))
    return b.add(op_type, [v, w]), max(n, m)


def _cast(b: ChainBuilder, v: ir.Value, n: int, w: ir.Value, m: int, k: int) -> Any:
    narrow = b.add("Cast", [v], to=ir.DataType.INT32.value)
    narrow.type = ir.TensorType(ir.DataType.INT32)
    return b.add("Cast", [narrow], to=ir.DataType.INT64.value), n


_STEPS = {
    f.__name__: f
    for f in (_gather, _scalar, _concat, _slice, _product, _where, _arithmetic, _binary, _cast)
}


def _check_elements(inference: Inference, value: ir.Value, actual: Any, sizes: Any) -> None:
    for said, found in zip(
        inference.elements(value) or [], actual.reshape(-1).tolist(), strict=False
    ):
        if isinstance(said, str):
            names = {"Max": sympy.Max, "Min": sympy.Min, "Mod": sympy.Mod, "floor": sympy.floor}
            expected = sympy.sympify(
                said, locals=names | {k: sympy.Integer(v) for k, v in sizes.items()}
            )
            assert int(expected) == found, (value, said, found)
        elif said is not None:
            assert said == found, (value, said, found)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_elements_and_folded_outputs_are_those_of_onnxruntime(data: st.DataObject) -> None:
    builder = ChainBuilder(data.draw)
    for _ in range(data.draw(st.integers(3, 12))):
        builder.step()
    model = builder.model()
    folded = model.clone()
    inference = infer_model(model)
    FoldConstants()(folded)
    for sizes in SIZES:
        feeds = {"x": np.zeros((sizes["N"], 4, sizes["S"]), np.float32)}
        before, after = run(model, feeds), run(folded, feeds)
        for value, one, other in zip(model.graph.outputs, before, after, strict=True):
            np.testing.assert_array_equal(one, other)
            _check_elements(inference, value, one, sizes)
            assert inference.facts[value].static_dims == one.shape
    assert not FoldConstants()(folded).modified
