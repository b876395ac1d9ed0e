"""`assert_rewrites`: the one way in which passes are tested.

Graphs are written in ONNX's text format; weights that the text leaves out are drawn with a seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnx.parser
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from onnxopt.core.passes import Pass, PassResult

Array = NDArray[Any]


def parse_model(
    text: str, weights: Mapping[str, Array] | None = None, *, opset: int = 18, ir_version: int = 10
) -> ir.Model:
    """A model from `name (inputs) => (outputs) { ... }` in ONNX's text format.

    Args:
        text: The graph, or a whole model if it starts with `<`.
        weights: Initializers by name, added to those of the text.
        opset: Version of the default domain, unless the text says its own.
        ir_version: IR version, unless the text says its own.
    """
    text = text.strip()
    if not text.startswith("<"):
        header = f'<ir_version: {ir_version}, opset_import: ["" : {opset}, "com.microsoft" : 1]>'
        text = f"{header}\n{text}"
    model = ir.from_proto(onnx.parser.parse_model(text))
    graph = model.graph
    for name, array in (weights or {}).items():
        value = graph.initializers.get(name) or _used_value(graph, name)
        value.const_value = ir.tensor(array, name=name)
        value.shape = ir.Shape(array.shape)
        value.dtype = ir.tensor(array).dtype
        graph.initializers[name] = value
    return model


def _used_value(graph: ir.Graph, name: str) -> ir.Value:
    for node in graph.all_nodes():
        for value in node.inputs:
            if value is not None and value.name == name:
                return value
    raise AssertionError(f"no node of the graph reads {name!r}")


def op_types(model: ir.Model) -> list[str]:
    """Op types of all nodes of the main graph, in order; other domains as `domain.Op`."""
    return [f"{n.domain}.{n.op_type}" if n.domain else n.op_type for n in model.graph]


def run(model: ir.Model, feeds: Mapping[str, Array]) -> list[Any]:
    """Outputs of the model in ONNX Runtime on one thread, with its own optimizations off."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    proto = ir.to_proto(model)
    session = ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, dict(feeds)))


def random_feeds(model: ir.Model, sizes: Mapping[str, int], seed: int = 0) -> dict[str, Array]:
    """Normal floats, small integers, random booleans; symbolic dimensions from `sizes`."""
    rng = np.random.default_rng(seed)
    feeds: dict[str, Array] = {}
    for value in model.graph.inputs:
        if value.is_initializer():
            continue
        assert value.shape is not None
        assert value.dtype is not None
        assert value.name
        shape = [d if isinstance(d, int) else sizes[str(d.value)] for d in value.shape]
        dtype = value.dtype.numpy()
        if np.issubdtype(dtype, np.bool_):
            feeds[value.name] = np.asarray(rng.random(shape) < 0.5)
        elif np.issubdtype(dtype, np.integer):
            feeds[value.name] = np.asarray(rng.integers(0, 4, shape), dtype)
        else:
            feeds[value.name] = np.asarray(rng.standard_normal(shape), dtype)
    return feeds


def assert_rewrites(
    pass_: Pass,
    model: ir.Model,
    *,
    expect: Sequence[str] | None,
    rewrites: int | Mapping[str, int],
    rtol: float,
    atol: float,
    sizes: Sequence[Mapping[str, int]] = ({"N": 1}, {"N": 2}, {"N": 5}),
    feeds: Mapping[str, Array] | None = None,
    check: bool = True,
) -> PassResult:
    """Runs a pass and checks all that the contract of a pass promises.

    Args:
        pass_: The pass.
        model: Changed in place.
        expect: Op types of the main graph afterwards, in order; None to leave it unchecked.
        rewrites: How many rewrites, in all or by rule.
        rtol: Relative tolerance of the outputs; 0 for exact.
        atol: Absolute tolerance of the outputs; 0 for exact.
        sizes: Values for the symbolic dimensions, each tried.
        feeds: Inputs, instead of random ones.
        check: Run onnx's checker, before and after (off for operators that it does not know).

    Returns:
        The result of the first run, for a look at its refusals.
    """
    original = model.clone()
    interface = _interface(model)
    if check:
        onnx.checker.check_model(ir.to_proto(original), full_check=True)
    result = pass_(model)
    assert isinstance(result, PassResult)
    if isinstance(rewrites, int):
        assert sum(result.rewrites.values()) == rewrites, (result.rewrites, result.refusals)
    else:
        assert dict(result.rewrites) == dict(rewrites), result.refusals
    assert result.modified == bool(result.rewrites)
    if check:
        onnx.checker.check_model(ir.to_proto(model), full_check=True)
    if expect is not None:
        assert op_types(model) == list(expect)
    assert _interface(model) == interface, "graph inputs and outputs are a contract"
    tried = [feeds] if feeds is not None else [random_feeds(original, size) for size in sizes]
    for inputs in tried:
        for before, after in zip(run(original, inputs), run(model, inputs), strict=True):
            assert before.dtype == after.dtype
            assert before.shape == after.shape
            np.testing.assert_allclose(after, before, rtol=rtol, atol=atol)
    again = pass_(model)
    assert isinstance(again, PassResult)
    assert not again.modified, f"not idempotent: {again.rewrites}"
    return result


def assert_refuses(pass_: Pass, model: ir.Model, reason: str) -> None:
    """The pass leaves the model as it is, and one of its refusals contains `reason`."""
    before = op_types(model)
    result = pass_(model)
    assert isinstance(result, PassResult)
    assert not result.rewrites, result.rewrites
    assert op_types(model) == before
    reasons = [refusal.reason for refusal in result.refusals]
    assert any(reason in text for text in reasons), f"{reason!r} is not in {reasons}"


def _interface(model: ir.Model) -> list[tuple[str | None, str, str]]:
    return [
        (value.name, str(value.type), str(value.shape))
        for value in [
            *(v for v in model.graph.inputs if not v.is_initializer()),
            *model.graph.outputs,
        ]
    ]
