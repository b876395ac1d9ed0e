"""No combination of forms, methods, types and granularities ends in a crash or a broken model."""

from __future__ import annotations

import functools
from typing import Any, get_args

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from onnxopt.calibration.collecting import collect
from onnxopt.calibration.data import CalibrationData, open_data
from onnxopt.calibration.observers import METHODS
from onnxopt.calibration.table import CalibrationTable
from onnxopt.graph.naming import name_nodes
from onnxopt.graph.quantization import INTEGER_TYPES
from onnxopt.quantizing.forms import Basis, Form, Kind, observed_names
from onnxopt.quantizing.options import QuantizeOptions
from onnxopt.runtime.parity.deviation import Deviation, Reference
from onnxopt.runtime.session import CPU
from onnxopt.targets import Target

BODIES = {
    "convolutions": (
        "float[N, 4, 8, 8] x",
        """a = Conv<pads = [1, 1, 1, 1]>(x, w3, b8) r = Relu(a)
        d = Conv<group = 8, pads = [1, 1, 1, 1]>(r, wd) s = Sigmoid(d) m = Mul(d, s)
        g = HardSigmoid<alpha = 0.2>(m) h = Mul(m, g) p = Conv(h, w1, b8) q = Add(p, r)
        c = Concat<axis = 1>(q, r) o = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(c)
        v = GlobalAveragePool(o) f = Flatten(v) y = Gemm<transB = 1>(f, wg, b8)""",
        {"w3": (8, 4, 3, 3), "b8": (8,), "wd": (8, 1, 3, 3), "w1": (8, 8, 1, 1), "wg": (8, 16)},
    ),
    "products": (
        "float[N, 5, 64] x",
        """k = MatMul(x, wa) q = MatMul(x, wb) b = Add(q, c64)
        t = Transpose<perm = [0, 2, 1]>(k) s = MatMul(b, t) p = Softmax<axis = -1>(s)
        v = MatMul(p, k) i = Transpose<perm = [1, 0, 2]>(v)
        l, n = LSTM<hidden_size = 32>(i, wl, rl) u = Squeeze(l, one) z = Relu(u)
        y = MatMul(z, wz)""",
        {
            **{"wa": (64, 64), "wb": (64, 64), "c64": (64,), "wl": (1, 128, 64)},
            **{"rl": (1, 128, 32), "wz": (32, 256)},
        },
    ),
    "branches": (
        "float[N, 64] x",
        """m = ReduceMax<keepdims = 0>(x) z = Greater(m, zero)
        h = If(z) <then_branch = t () => (float[N, 64] p) { p = MatMul(x, wa) },
                   else_branch = e () => (float[N, 64] q) { q = Neg(x) }>
        y = MatMul(h, wb)""",
        {"wa": (64, 64), "wb": (64, 64), "zero": ()},
    ),
}
FIXED = {"one": np.array([1], np.int64), "zero": np.array(0, np.float32)}


@functools.cache
def prepared(name: str, opset: int) -> tuple[ir.Model, CalibrationTable, Reference]:
    entry, body, shapes = BODIES[name]
    model = ir.from_onnx_text(
        f'<ir_version: 8, opset_import: ["" : {opset}, "com.microsoft" : 1]>'
        f" g ({entry}) => (float[N, M] y) {{ {body} }}"
    )
    model.graph.outputs[0].shape = None
    random = np.random.default_rng(0)
    arrays = {n: random.standard_normal(s).astype(np.float32) / 12 for n, s in shapes.items()}
    initializers: dict[str, ir.Value] = {}
    for graph in [model.graph, *(g for node in model.graph for g in _bodies(node))]:
        for node in graph:
            for index, value in enumerate(node.inputs):
                found = None if value is None else ({**arrays, **FIXED}).get(value.name or "")
                if found is None or value is None:
                    continue
                if value.name not in initializers:
                    made = ir.Value(name=value.name, const_value=ir.Tensor(found, name=value.name))
                    made.dtype, made.shape = (
                        ir.DataType.from_numpy(found.dtype),
                        ir.Shape(found.shape),
                    )
                    model.graph.register_initializer(made)
                    initializers[value.name or ""] = made
                node.replace_input_with(index, initializers[value.name or ""])
    name_nodes(model)
    data = samples(model)
    table = collect(model, observed_names(model), data)
    return model, table, Reference(model, [data[index] for index in range(3)], CPU)


def _bodies(node: ir.Node) -> list[ir.Graph]:
    return [a.as_graph() for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH]


def samples(model: ir.Model) -> CalibrationData:
    random = np.random.default_rng(1)
    shape = [dim if isinstance(dim, int) else 2 for dim in model.graph.inputs[0].shape or ()]
    arrays = [{"x": random.standard_normal(shape).astype(np.float32)} for _ in range(6)]
    return open_data(arrays, model)


def deviation(name: str, opset: int, form: Form, **choices: Any) -> Deviation:
    model, table, reference = prepared(name, opset)
    result, *_ = form.build(Basis(model, table), QuantizeOptions(**choices))
    return reference.deviation(result)


forms = st.builds(
    Form,
    kind=st.sampled_from(get_args(Kind)),
    method=st.sampled_from(METHODS),
    corrected=st.booleans(),
    unsigned=st.booleans(),
    least_work=st.sampled_from([0, 64]),
    joins=st.booleans(),
)
targets = st.sampled_from(
    [
        Target("cpu", isa="avx2"),
        Target("cpu", isa="vnni"),
        Target("cpu", isa="neon"),
        Target("cuda"),
    ]
)


@example("convolutions", 11, Form("static", "entropy", True), Target("cuda"), "int8", "int8", False)
@example("products", 21, Form("mixed", "mse"), Target("cpu"), "uint16", "int16", True)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(list(BODIES)),
    st.sampled_from([13, 17, 21]),
    forms,
    targets,
    st.sampled_from([None, *INTEGER_TYPES]),
    st.sampled_from(INTEGER_TYPES),
    st.booleans(),
)
@pytest.mark.slow
def test_every_combination_gives_a_model_that_runs(
    name: str,
    opset: int,
    form: Form,
    target: Target,
    activations: Any,
    weights: Any,
    per_channel: bool,
) -> None:
    found = deviation(
        name,
        max(opset, 13) if name == "products" else opset,
        form,
        target=target,
        activation_type=activations,
        weight_type=weights,
        per_channel=per_channel,
    )
    assert not found.broken


@pytest.mark.parametrize("name", list(BODIES))
@pytest.mark.parametrize("kind", get_args(Kind))
def test_the_usual_forms_are_close(name: str, kind: Kind) -> None:
    for unsigned in (False, True):
        form = Form(kind, None if kind == "dynamic" else "min-max", unsigned=unsigned)
        found = deviation(name, 17, form, target=Target("cpu", isa="avx2"))
        assert not found.broken
        assert found.cosine > 0.99
