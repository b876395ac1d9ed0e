"""RemoveTrainingMode: exact by default, refused with advice otherwise, inference with force."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers.rewriting import assert_refuses, assert_rewrites, op_types, parse_model, run

from onnxopt.passes.cleanup.training import RemoveTrainingMode

_X = np.arange(24, dtype=np.float32).reshape(3, 2, 4)
_STATISTICS = {
    "s": np.array([1, 2], np.float32),
    "b": np.array([0.5, 0], np.float32),
    "m": np.array([5, 6], np.float32),
    "v": np.array([2, 3], np.float32),
}


def _dropout(ratio: float, mode: str, opset: int = 18, outputs: str = "a") -> ir.Model:
    return parse_model(
        f"""g (float[N,3] x, bool t) => (float[N,3] y) <float r = {{{ratio}}}, bool on = {{1}}>
        {{ {outputs} = Dropout(x, r, {mode}) y = Neg(a) }}""",
        opset=opset,
    )


@pytest.mark.parametrize("opset", [12, 13, 18, 22])
def test_dropout_goes_when_its_ratio_is_zero(opset: int) -> None:
    assert_rewrites(
        RemoveTrainingMode(), _dropout(0, "on", opset), expect=["Neg"],
        rewrites={"training-dropout": 1}, rtol=0, atol=0,
    )  # fmt: skip


def test_dropout_is_refused_with_advice_when_it_is_random() -> None:
    assert_refuses(RemoveTrainingMode(), _dropout(0.5, "on"), "model.eval()")


def test_dropout_goes_when_forced() -> None:
    model = _dropout(0.5, "on")
    assert RemoveTrainingMode(force=True)(model).rewrites["training-dropout"] == 1
    x = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(run(model, {"x": x, "t": np.array(True)})[0], -x)


def test_dropout_is_refused_when_its_mode_is_an_input() -> None:
    assert_refuses(RemoveTrainingMode(force=True), _dropout(0.5, "t"), "computed at run time")


def test_dropout_is_refused_when_its_mask_is_used() -> None:
    model = parse_model(
        """g (float[N] x) => (float[N] y, bool[N] mask) <float r = {0.0}, bool on = {1}>
        { y, mask = Dropout(x, r, on) }"""
    )
    assert_refuses(RemoveTrainingMode(force=True), model, "mask of the Dropout is used")


def test_dropout_stays_when_it_does_not_train() -> None:
    model = parse_model("g (float[N] x) => (float[N] y) { y = Dropout(x) }")
    assert_rewrites(RemoveTrainingMode(), model, expect=["Dropout"], rewrites=0, rtol=0, atol=0)


def test_dropout_of_opset_6_trains_unless_it_says_otherwise() -> None:
    text = "g (float[N] x) => (float[N] y) {{ a = Dropout<is_test = {}>(x) y = Neg(a) }}"
    assert_refuses(RemoveTrainingMode(), parse_model(text.format(0), opset=6), "in training mode")
    assert not RemoveTrainingMode()(parse_model(text.format(1), opset=6)).refusals
    forced = parse_model(text.format(0), opset=6)
    RemoveTrainingMode(force=True)(forced)
    assert op_types(forced) == ["Neg"]


def _batch_norm(opset: int, outputs: str = "y", attributes: str = "") -> ir.Model:
    return parse_model(
        f"""g (float[3,2,4] x) => (float[3,2,4] y)
        {{ {outputs} = BatchNormalization{attributes}(x, s, b, m, v) }}""",
        _STATISTICS,
        opset=opset,
    )


_TRAINED = [
    (15, "y, n, w", "<training_mode = 1, epsilon = 0.01>"),
    (14, "y, n, w", "<training_mode = 1, epsilon = 0.01>"),
    (13, "y, n, w, n2, w2", "<epsilon = 0.01>"),
    (9, "y, n, w, n2, w2", "<epsilon = 0.01>"),
]


@pytest.mark.parametrize(("opset", "outputs", "attributes"), _TRAINED)
def test_batch_normalization_is_refused_with_advice_when_it_trains(
    opset: int, outputs: str, attributes: str
) -> None:
    assert_refuses(
        RemoveTrainingMode(), _batch_norm(opset, outputs, attributes), "export the model after"
    )


@pytest.mark.parametrize(("opset", "outputs", "attributes"), _TRAINED)
def test_batch_normalization_uses_the_learned_statistics_when_forced(
    opset: int, outputs: str, attributes: str
) -> None:
    model = _batch_norm(opset, outputs, attributes)
    inference = _batch_norm(opset, attributes="<epsilon = 0.01>")
    result = RemoveTrainingMode(force=True)(model)
    assert result.rewrites["training-batch-norm"] == 1
    assert not RemoveTrainingMode(force=True)(model).modified
    np.testing.assert_array_equal(run(model, {"x": _X})[0], run(inference, {"x": _X})[0])


def test_batch_normalization_stays_when_it_does_not_train() -> None:
    assert_rewrites(
        RemoveTrainingMode(force=True), _batch_norm(15), expect=["BatchNormalization"],
        rewrites=0, rtol=0, atol=0,
    )  # fmt: skip


def test_batch_normalization_is_refused_when_its_statistics_are_used() -> None:
    model = parse_model(
        """g (float[3,2,4] x) => (float[3,2,4] y, float[2] n)
        { y, n, w = BatchNormalization<training_mode = 1>(x, s, b, m, v) }""",
        _STATISTICS,
    )
    assert_refuses(RemoveTrainingMode(force=True), model, "statistics")


def test_dropout_in_a_branch_goes_when_its_ratio_is_zero() -> None:
    model = parse_model(
        """g (float[N] x, bool c) => (float[N] y) <float r = {0.0}, bool on = {1}> {
            y = If (c) <
                then_branch = t () => (float[N] p) { d = Dropout(x, r, on) p = Neg(d) },
                else_branch = e () => (float[N] q) { q = Abs(x) }
            >
        }"""
    )
    assert_rewrites(RemoveTrainingMode(), model, expect=["If"], rewrites=1, rtol=0, atol=0)
