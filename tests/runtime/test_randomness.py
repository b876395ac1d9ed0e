import onnx.parser
import onnx_ir as ir
import pytest

from onnxopt.runtime.parity.randomness import random_outputs


def outputs(body: str) -> dict[str, str]:
    text = '<ir_version: 9, opset_import: ["": 18]>\n' + body
    return random_outputs(ir.from_proto(onnx.parser.parse_model(text)))


def test_only_outputs_behind_the_random_node_are_random():
    found = outputs(
        """g (float[N] x) => (float[N] y, float[N] z) {
            r = RandomNormalLike(x) y = Add(x, r) z = Relu(x) }"""
    )
    assert found == {"y": "r (RandomNormalLike)"}


@pytest.mark.parametrize(
    "body",
    [
        "y = RandomUniformLike<seed = 1.0>(x)",
        "y = Dropout(x)",
        "t = Constant<value = bool {0}>() r = Constant<value_float = 0.5>() y = Dropout(x, r, t)",
    ],
)
def test_seeded_and_inference_nodes_are_not_random(body):
    assert outputs(f"g (float[N] x) => (float[N] y) {{ {body} }}") == {}


def test_dropout_in_training_is_random():
    body = "t = Constant<value = bool {1}>() r = Constant<value_float = 0.5>() y = Dropout(x, r, t)"
    assert list(outputs(f"g (float[N] x) => (float[N] y) {{ {body} }}")) == ["y"]


def test_a_random_node_in_a_branch_is_found():
    assert outputs(
        """g (float[N] x, bool c) => (float[N] y) {
            y = If(c) <
                then_branch = a () => (float[N] p) { p = RandomNormalLike(x) },
                else_branch = b () => (float[N] q) { q = Identity(x) }
            > }"""
    )
