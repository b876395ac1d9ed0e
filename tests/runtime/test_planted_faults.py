"""No missed fault: what a rewrite can get wrong is caught by parity and located by diagnosis."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from helpers.small_decoder import small_decoder

from onnxopt.graph.loading import load_model
from onnxopt.optimizing import optimize
from onnxopt.runtime.diagnosis.finding import Finding
from onnxopt.runtime.diagnosis.search import diagnose
from onnxopt.runtime.parity.check import check_parity

MODELS = Path(__file__).resolve().parents[2] / "models"
LAYER = "/layers/layers.1"
Mutate = Callable[[ir.Model], Any]


@cache
def _original(name: str) -> ir.Model:
    if name == "decoder":
        return small_decoder()
    if name == "quantized":
        return _quantized()
    if name.endswith("-optimized"):
        return optimize(_original(name.removesuffix("-optimized")), guard="off").model
    return load_model(MODELS / f"{name}.onnx")


def _node(model: ir.Model, name: str) -> ir.Node:
    return next(node for node in model.graph if node.name == name)


def _insert(model: ir.Model, before: ir.Node, index: int, node: ir.Node) -> None:
    """Puts a node into one input of another."""
    model.graph.insert_before(before, node)
    before.replace_input_with(index, node.outputs[0])


def _weight(name: str, change: Callable[[Any], Any]) -> Mutate:
    def mutate(model: ir.Model) -> None:
        value = model.graph.initializers[name]
        array = np.array(value.const_value.numpy())  # type: ignore[union-attr]
        value.const_value = ir.tensor(np.array(change(array), array.dtype, order="C"), name=name)

    return mutate


def _constant(name: str, change: Callable[[Any], Any]) -> Mutate:
    """Changes a Constant node."""

    def mutate(model: ir.Model) -> None:
        node = _node(model, name)
        array = node.attributes["value"].as_tensor().numpy()
        tensor = ir.tensor(np.asarray(change(array), array.dtype))
        node.attributes["value"] = ir.AttrTensor("value", tensor)
        node.outputs[0].const_value = None

    return mutate


def _attribute(name: str, key: str, value: Any) -> Mutate:
    def mutate(model: ir.Model) -> None:
        make = {float: ir.AttrFloat32, int: ir.AttrInt64, tuple: ir.AttrInt64s}[type(value)]
        _node(model, name).attributes[key] = make(key, value)

    return mutate


def _swapped(name: str, one: int = 0, other: int = 1) -> Mutate:
    def mutate(model: ir.Model) -> None:
        node = _node(model, name)
        first, second = node.inputs[one], node.inputs[other]
        node.replace_input_with(one, second)
        node.replace_input_with(other, first)

    return mutate


def _dropped(name: str, kept: int = 0) -> Mutate:
    """Takes a node out: its users read one of its inputs."""

    def mutate(model: ir.Model) -> None:
        node = _node(model, name)
        source = node.inputs[kept]
        assert source is not None
        node.outputs[0].replace_all_uses_with(source)
        model.graph.remove(node, safe=True)

    return mutate


def _exchanged(one: str, other: str) -> Mutate:
    """The users of one value read another, and the other way round."""

    def mutate(model: ir.Model) -> None:
        first, second = _node(model, one).outputs[0], _node(model, other).outputs[0]
        uses, other_uses = list(first.uses()), list(second.uses())
        for user, index in uses:
            user.replace_input_with(index, second)
        for user, index in other_uses:
            user.replace_input_with(index, first)
        model.graph.sort()

    return mutate


def _replaced(name: str, op_type: str) -> Mutate:
    def mutate(model: ir.Model) -> None:
        _node(model, name).op_type = op_type

    return mutate


def _through_float16(name: str) -> Mutate:
    """Keeps a value in float16 for a while.

    In a Reshape, since ONNX Runtime computes nodes without a float16 kernel in float throughout.
    """

    def mutate(model: ir.Model) -> None:
        output = _node(model, name).outputs[0]
        users = list(output.uses())
        half = ir.node("Cast", [output], {"to": ir.DataType.FLOAT16}, name="half")
        kept = ir.node("Reshape", [half.outputs[0], model.graph.initializers["flat"]], name="kept")
        back = ir.node("Cast", [kept.outputs[0]], {"to": ir.DataType.FLOAT}, name="back")
        for node in (half, kept, back):
            node.outputs[0].name = node.name
        for user, index in users:
            user.replace_input_with(index, back.outputs[0])
        model.graph.insert_after(_node(model, name), [half, kept, back])

    return mutate


def _shifted_positions(model: ir.Model) -> None:
    node = _node(model, "places")
    positions = node.inputs[1]
    one = model.graph.initializers["one"]
    moved = ir.node("Add", [positions, one], name="moved")
    moved.outputs[0].name = "moved"
    _insert(model, node, 1, moved)


def _quantized() -> ir.Model:
    """The CNN with the input of its second convolution in 8 bits."""
    model = load_model(MODELS / "digits_cnn.onnx")
    node = _node(model, "node_conv2d_1")
    for name, array in (("scale", np.float32(2 / 255)), ("zero", np.uint8(0))):
        model.graph.register_initializer(ir.Value(name=name, const_value=ir.tensor(array)))
    parameters = [model.graph.initializers[name] for name in ("scale", "zero")]
    quantize = ir.node("QuantizeLinear", [node.inputs[0], *parameters], name="quantize")
    back = ir.node("DequantizeLinear", [quantize.outputs[0], *parameters], name="dequantize")
    quantize.outputs[0].name, back.outputs[0].name = "quantized", "dequantized"
    model.graph.insert_before(node, [quantize, back])
    node.replace_input_with(0, back.outputs[0])
    return model


def _without_a_channel(array: Any) -> Any:
    return array * (np.arange(len(array)) != 5)[:, None, None, None]


def _swapped_rows(array: Any) -> Any:
    return array[[1, 0, *range(2, len(array))]]


@dataclasses.dataclass(frozen=True)
class Fault:
    """A fault, where it is, and a word that its cause should hold ("" if none is expected)."""

    name: str
    model: str
    mutate: Mutate
    nodes: tuple[str, ...]
    cause: str = ""


CNN, VIT, DECODER = "digits_cnn", "digits_transformer", "decoder"
FAULTS = [
    Fault(
        "weight scaled by 1 %",
        CNN,
        _weight("features.3.0.weight", lambda w: w * 1.01),
        ("node_conv2d_3",),
        "scaled by 1.01",
    ),
    Fault(
        "wrong bias",
        CNN,
        _weight("features.5.0.bias", _swapped_rows),
        ("node_conv2d_5",),
        "features.5.0.bias",
    ),
    Fault(
        "epsilon of batch normalization",
        CNN,
        _attribute("node__native_batch_norm_legit_no_training_3__0", "epsilon", 1e-3),
        ("node__native_batch_norm_legit_no_training_3__0",),
        "epsilon is 0.001",
    ),
    Fault("dropped residual", CNN, _dropped("node_add_40", 1), ("node_add_40",), "missing"),
    Fault("dropped Relu", CNN, _dropped("node_relu_3"), ("node_relu_3",), "missing"),
    Fault(
        "padding on one side",
        CNN,
        _attribute("node_conv2d_4", "pads", (0, 0, 2, 2)),
        ("node_conv2d_4",),
        "pads is",
    ),
    Fault(
        "mean and variance swapped",
        CNN,
        _swapped("node__native_batch_norm_legit_no_training_4__0", 1, 2),
        ("node__native_batch_norm_legit_no_training_4__0",),
        "swapped",
    ),
    Fault(
        "one wrong channel",
        CNN,
        _weight("features.1.second.weight", _without_a_channel),
        ("node_conv2d_2",),
        "features.1.second.weight",
    ),
    Fault(
        "saturating scale",
        "quantized",
        _weight("scale", lambda s: s / 4),
        ("quantize", "dequantize"),
        "clips",
    ),
    Fault(
        "transposed weight",
        VIT,
        _weight("layers.1.attention.output.weight", np.transpose),
        (f"{LAYER}/attention/output/Transpose",),
        "transposed",
    ),
    Fault(
        "swapped query and key",
        VIT,
        _exchanged(f"{LAYER}/attention/query/Add", f"{LAYER}/attention/key/Add"),
        (f"{LAYER}/attention/query/Add", f"{LAYER}/attention/key/Add"),
        "reads",
    ),
    Fault(
        "epsilon of layer normalization",
        VIT,
        _attribute(f"{LAYER}/mlp_norm/LayerNormalization", "epsilon", 1e-3),
        (f"{LAYER}/mlp_norm/LayerNormalization",),
        "epsilon is 0.001",
    ),
    Fault(
        "wrong perm",
        VIT,
        _attribute(f"{LAYER}/attention/Transpose_3", "perm", (0, 2, 3, 1)),
        (f"{LAYER}/attention/Transpose_3",),
        "perm is",
    ),
    Fault(
        "shifted position embedding",
        VIT,
        _weight("positions", lambda p: np.roll(p, 1, axis=1)),
        ("/Add",),
        "shifted by 1 along axis 1",
    ),
    Fault(
        "axis of Softmax",
        VIT,
        _attribute(f"{LAYER}/attention/Softmax", "axis", -2),
        (f"{LAYER}/attention/Softmax",),
        "axis is -2",
    ),
    Fault(
        "constant of Gelu",
        VIT,
        _constant(f"{LAYER}/mlp/mlp.1/Constant", lambda c: 1.4),
        (f"{LAYER}/mlp/mlp.1/Constant",),
    ),
    Fault("dropped residual", VIT, _dropped(f"{LAYER}/Add_1", 1), (f"{LAYER}/Add_1",), "missing"),
    Fault(
        "other operator",
        VIT,
        _replaced(f"{LAYER}/mlp/mlp.1/Erf", "Tanh"),
        (f"{LAYER}/mlp/mlp.1/Erf",),
        "is Tanh, not Erf",
    ),
    Fault(
        "wrong row of the classifier",
        VIT,
        _weight("classifier.weight", _swapped_rows),
        ("/classifier/Gemm",),
        "classifier.weight",
    ),
    Fault(
        "dropped padding mask", DECODER, _dropped("masked_scores"), ("masked_scores",), "missing"
    ),
    Fault(
        "dropped causal mask", DECODER, _dropped("causal_scores", 1), ("causal_scores",), "missing"
    ),
    Fault(
        "swapped branches of Where",
        DECODER,
        _swapped("causal_scores", 1, 2),
        ("causal_scores",),
        "swapped",
    ),
    Fault("swapped query and key", DECODER, _exchanged("query", "key"), ("query", "key"), "reads"),
    Fault("shifted position", DECODER, _shifted_positions, ("places", "moved"), "moved"),
    Fault(
        "bound of Clip", DECODER, _weight("clip.high", lambda h: h * 0.7), ("clipped",), "clip.high"
    ),
    Fault(
        "wrong scale of the scores",
        DECODER,
        _weight("head_size", lambda s: s * 1.05),
        ("scaled",),
        "scaled by 1.05",
    ),
    Fault("overflow in float16", DECODER, _through_float16("norm.square"), ("back",), "overflow"),
    Fault(
        "epsilon inside the root",
        DECODER,
        _weight("norm.epsilon", lambda e: e + 100),
        ("norm.sum",),
        "norm.epsilon",
    ),
    Fault("gate without Sigmoid", DECODER, _dropped("gate.sigmoid"), ("gate.sigmoid",), "missing"),
    Fault("dropped scale of the scores", DECODER, _dropped("scaled"), ("scaled",), "missing"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.model}: {fault.name}")
def test_fault_is_caught_and_located_when_planted(fault: Fault) -> None:
    original = _original(fault.model)
    faulty = original.clone()
    fault.mutate(faulty)
    assert check_parity(original, faulty).status == "failed"
    diagnosis = diagnose(original, faulty)
    assert diagnosis.exit_code == 3
    assert diagnosis.findings, diagnosis.to_text()
    worst = diagnosis.findings[0]
    assert worst.nodes[0] in _places(fault, original, faulty), diagnosis.to_text()
    assert fault.cause in " | ".join(worst.causes), diagnosis.to_text()


def _places(fault: Fault, *models: ir.Model) -> set[str | None]:
    """The nodes at fault and their direct consumers, in both models."""
    places: set[str | None] = set(fault.nodes)
    for model in models:
        for node in model.graph:
            if node.name in fault.nodes:
                places.update(user.name for value in node.outputs for user in value.consumers())
    return places


def test_fault_is_located_when_planted_after_fusions() -> None:
    """Names and provenance lead from the optimized graph to the original."""
    original, optimized = _original(VIT), _original(f"{VIT}-optimized").clone()
    norm = next(n for n in optimized.graph if n.op_type == "LayerNormalization")
    norm.attributes["epsilon"] = ir.AttrFloat32("epsilon", 1e-3)
    findings = diagnose(original, optimized).findings
    assert [finding.nodes[0] for finding in findings] == [norm.name]


def test_fused_batch_normalization_is_named_with_its_rule_when_wrong() -> None:
    original, optimized = _original(CNN), _original(f"{CNN}-optimized").clone()
    convolution = [n for n in optimized.graph if n.op_type == "Conv"][3]
    value = convolution.inputs[1]
    assert value is not None
    assert value.const_value is not None
    value.const_value = ir.tensor(value.const_value.numpy() * np.float32(1.01), name=value.name)
    (finding,) = diagnose(original, optimized).findings
    assert isinstance(finding, Finding)
    assert finding.nodes == (convolution.name,)
    assert any("batch-norm" in rule for rule in finding.rules)
    assert any("BatchNormalization" in label for label in finding.original)


@pytest.mark.parametrize("name", [CNN, VIT, DECODER, "quantized"])
def test_nothing_is_found_when_the_model_is_only_optimized(name: str) -> None:
    original = _original(name)
    optimized = optimize(original, guard="off").model
    diagnosis = diagnose(original, optimized, everything=True)
    assert diagnosis.exit_code == 0, diagnosis.to_text()
    assert not diagnosis.findings, diagnosis.to_text()


def test_search_narrows_down_when_values_do_not_fit_into_memory() -> None:
    original = _original(VIT)
    faulty = original.clone()
    _attribute(f"{LAYER}/mlp_norm/LayerNormalization", "epsilon", 1e-3)(faulty)
    narrow = diagnose(original, faulty, memory=400_000)
    assert narrow.findings, narrow.to_text()
    assert narrow.findings[0].nodes == (f"{LAYER}/mlp_norm/LayerNormalization",)
    assert len(narrow.points) < len(diagnose(original, faulty).points)


def test_fault_is_located_when_everything_is_renamed() -> None:
    original = _original(DECODER)
    faulty = original.clone()
    _attribute("ln", "epsilon", 1e-2)(faulty)
    for index, value in enumerate(list(faulty.graph.initializers.values())):
        value.name = f"weight{index}"
    for index, node in enumerate(faulty.graph):
        node.name = f"node{index}"
        for value in node.outputs:
            if not value.is_graph_output():
                value.name = f"value{index}"
    (finding,) = diagnose(original, faulty).findings
    norm = next(node for node in faulty.graph if node.op_type == "LayerNormalization")
    assert finding.nodes[0] == norm.name
    assert "epsilon is 0.01" in finding.causes[0]
