"""InsertQdq on products of two activations, as of queries and keys."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from onnxopt.calibration.collecting import collect
from onnxopt.calibration.data import open_data
from onnxopt.graph.calibrated import Ranges
from onnxopt.graph.quantization import Encoding
from onnxopt.passes.quantization.qdq import InsertQdq
from onnxopt.quantizing.forms import Form, observed_names
from onnxopt.quantizing.options import QuantizeOptions
from onnxopt.runtime.session import open_session
from onnxopt.targets import Target

MAIN = "t = Transpose<perm = [0, 1, 3, 2]>(k) s = MatMul(q, t) p = Softmax<axis = -1>(s)"
BODIES = {
    "attention": f"{MAIN} y = MatMul(p, v)",
    "of itself": """t = Transpose<perm = [0, 1, 3, 2]>(q) s = MatMul(q, t) z = Add(k, v)
        y = MatMul(s, z)""",
    "in a branch": """m = ReduceMax<keepdims = 0>(q) o = Sub(m, m) c = GreaterOrEqual(o, o)
        y = If(c) <then_branch = a () => (float[1, 2, 6, 8] n) { """
    + MAIN
    + """ n = MatMul(p, v) }, else_branch = b () => (float[1, 2, 6, 8] e) { e = Neg(v) }>""",
}


def build(case: str) -> ir.Model:
    inputs = ", ".join(f"float[1, 2, 6, 8] {name}" for name in "qkv")
    return ir.from_onnx_text(
        f'<ir_version: 8, opset_import: ["" : 17]> g ({inputs}) => (float[1, 2, 6, 8] y)'
        f" {{ {BODIES[case]} }}"
    )


def samples() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{n: rng.standard_normal((1, 2, 6, 8)).astype(np.float32) for n in "qkv"}] * 2


def ranges(model: ir.Model) -> Ranges:
    table = collect(model, observed_names(model, products=True), open_data(samples(), model))
    return Ranges(table.ranges("min-max", Encoding()))


@pytest.mark.parametrize("case", BODIES)
@pytest.mark.parametrize("reduce_range", [False, True])
def test_both_operands_are_quantized_and_the_result_is_close(
    case: str, reduce_range: bool, tmp_path: Path
) -> None:
    model = build(case)
    result = model.clone()
    found = InsertQdq(ranges=ranges(model), products=True, reduce_range=reduce_range)(result)
    assert found.rewrites["MatMul"] == 2
    onnx.checker.check_model(ir.to_proto(result))
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "o.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(ir.to_proto(result).SerializeToString(), options)
    text = str(onnx.load(tmp_path / "o.onnx"))
    assert text.count('op_type: "MatMulIntegerToFloat"') + text.count('"QLinearMatMul"') == 2
    if reduce_range:  # else CPUs without VNNI saturate
        before, after = (open_session(one).run(samples()[0])["y"] for one in (model, result))
        assert np.abs(before - after).max() < 0.06 * np.abs(before).max()


def test_the_second_operand_has_the_type_of_weights() -> None:
    model = build("attention")
    InsertQdq(ranges=ranges(model), products=True)(model)
    types = {}
    for node in model.graph:
        if node.op_type == "MatMul":
            for index, value in enumerate(node.inputs):
                source = None if value is None else value.producer()
                assert source is not None
                assert source.inputs[0] is not None
                types.setdefault(index, set()).add(source.inputs[0].dtype)
    assert types == {0: {ir.DataType.UINT8}, 1: {ir.DataType.INT8}}


def test_without_the_option_they_stay_in_float() -> None:
    model = build("attention")
    found = InsertQdq(ranges=ranges(model))(model)
    assert not found.modified
    assert [one.reason for one in found.refusals].count("both operands are computed") == 2


def test_a_second_run_changes_nothing() -> None:
    model = build("attention")
    known = ranges(model)
    InsertQdq(ranges=known, products=True)(model)
    before = Counter(node.op_type for node in model.graph)
    assert not InsertQdq(ranges=known, products=True)(model).modified
    assert Counter(node.op_type for node in model.graph) == before


def test_targets_whose_kernels_saturate_do_not_try_them() -> None:
    form = Form("static", "min-max")
    tried = {
        isa: form.larger_placements(QuantizeOptions(target=Target("cpu", isa=isa)))
        for isa in ("avx2", "vnni")
    }
    assert not tried["avx2"]
    assert [str(one) for one in tried["vnni"]] == ["static (min-max, attention)"]
    dynamic = QuantizeOptions(target=Target("cpu", isa="vnni"), mode="dynamic")
    assert not form.larger_placements(dynamic)
