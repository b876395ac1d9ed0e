"""Passes with planted faults, and the model that they are run on."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import onnx_ir as ir
from onnxscript.rewriter.pattern import RewriteRule, RewriteRuleClassBase

from onnxopt.core.passes import Pass, PassResult, RewritePass

WIDTH = 16


def layers(count: int = 12) -> ir.Model:
    """Layers of Identity, a double Transpose and Tanh, with a weight at the end.

    `RemoveIdentities` leaves three nodes of each layer, a pass that cancels those two.
    """
    lines, last = [], "x"
    for index in range(count):
        lines.append(
            f"i{index} = Identity({last}) t{index} = Tanh(i{index}) "
            f"a{index} = Transpose(t{index}) b{index} = Transpose(a{index})"
        )
        last = f"b{index}"
    header = '<ir_version: 10, opset_import: ["" : 18]>'
    text = f"{header} g (float[N, {WIDTH}] x) => (float[N, {WIDTH}] y) {{ {' '.join(lines)} "
    weight = np.random.default_rng(0).standard_normal((WIDTH, WIDTH)).astype(np.float32)
    proto = onnx.parser.parse_model(text + f"y = MatMul({last}, w) }}")
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    model = ir.from_proto(proto)
    for node in model.graph:
        node.name = f"node_{node.outputs[0].name}"
    return model


class _CancelPairs(RewriteRuleClassBase):
    def __init__(self, name: str, wrong_at: Sequence[str], raises: bool) -> None:
        super().__init__(name)
        self._wrong_at = frozenset(wrong_at)
        self._raises = raises

    def pattern(self, op: Any, x: Any) -> Any:
        return op.Transpose(op.Transpose(x))

    def rewrite(self, op: Any, x: ir.Value) -> Any:
        if x.name not in self._wrong_at:
            return x
        if self._raises:
            raise KeyError("boom")
        return op.Abs(x)


class _HarmlessAbs(RewriteRuleClassBase):
    def pattern(self, op: Any, x: Any) -> Any:
        return op.Abs(op.Abs(x))

    def rewrite(self, op: Any, x: ir.Value) -> Any:
        return op.Abs(x)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CancelPairs(RewritePass):
    """Cancels double Transpose; at the values `wrong_at` it does so wrongly, or raises."""

    name: ClassVar[str] = "cancel-pairs"
    wrong_at: tuple[str, ...] = ()
    raises: bool = False

    def rules(self) -> Sequence[RewriteRule]:
        cancel = _CancelPairs("double-transpose", self.wrong_at, self.raises)
        harmless = _HarmlessAbs("harmless-abs")
        return [
            RewriteRule(rule.pattern, rule.rewrite, name=rule.name, remove_nodes=False)
            for rule in (harmless, cancel)
        ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DropTanh(Pass):
    """Fast but wrong: takes every Tanh out, or only that of some values."""

    name: ClassVar[str] = "drop-tanh"
    only: tuple[str, ...] = ()

    def call(self, model: ir.Model) -> PassResult:
        dropped = 0
        for node in list(model.graph):
            value = node.outputs[0]
            if node.op_type == "Tanh" and not node.domain and self._hits(value):
                source = node.inputs[0]
                assert source is not None
                value.replace_all_uses_with(source)
                model.graph.remove(node, safe=True)
                dropped += 1
        return PassResult(model, Counter(dropped=dropped))

    def _hits(self, value: ir.Value) -> bool:
        return not self.only or value.name in self.only


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlowDown(Pass):
    """Correct but slower: multiplies the result of the first Tanh with identity matrices."""

    name: ClassVar[str] = "slow-down"
    times: int = 3

    def call(self, model: ir.Model) -> PassResult:
        graph = model.graph
        tanh = next((node for node in graph if node.op_type == "Tanh"), None)
        if tanh is None or "eye" in graph.initializers:
            return PassResult(model)
        eye = ir.val("eye", const_value=ir.tensor(np.eye(WIDTH, dtype=np.float32), name="eye"))
        graph.register_initializer(eye)
        users = list(tanh.outputs[0].uses())
        node = tanh
        for index in range(self.times):
            product = ir.node("MatMul", [node.outputs[0], eye], name=f"slow_{index}")
            product.outputs[0].name = f"slow_{index}_out"
            product.outputs[0].dtype = ir.DataType.FLOAT
            graph.insert_after(node, product)
            node = product
        for user, position in users:
            user.replace_input_with(position, node.outputs[0])
        return PassResult(model, Counter(slowed=1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Explode(Pass):
    """Raises halfway through its work."""

    name: ClassVar[str] = "explode"

    def call(self, model: ir.Model) -> PassResult:
        next(iter(model.graph)).op_type = "Broken"
        raise KeyError("boom")
