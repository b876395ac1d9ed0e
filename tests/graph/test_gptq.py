"""GPTQ and AWQ: what they minimize gets smaller, and without correlations GPTQ only rounds."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxopt.graph.awq import output_error, search_scales
from onnxopt.graph.block_weights import quantize_weight
from onnxopt.graph.blocks import BlockEncoding
from onnxopt.graph.gptq import solve_gptq


def _problem(rows: int = 160, columns: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """A weight, and the moments of inputs that share a few directions."""
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((600, 12)) @ rng.standard_normal((12, rows))
    inputs += 0.3 * rng.standard_normal((600, rows))
    inputs[:, ::40] *= 8
    return rng.standard_normal((rows, columns)).astype(np.float32), inputs.T @ inputs / 600


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("block_size", [32, 128, 0])
@pytest.mark.parametrize("symmetric", [False, True])
def test_gptq_halves_the_error_of_the_output(
    bits: int, act_order: bool, block_size: int, symmetric: bool
) -> None:
    weight, moments = _problem()
    encoding = BlockEncoding(bits, block_size, symmetric, "mse")
    rounded = quantize_weight(ir.Tensor(weight), encoding, 0).values()
    solved = solve_gptq(weight, 0, moments, encoding, act_order=act_order)
    assert solved.integers.max() <= encoding.levels
    assert output_error(weight, solved.values(), moments) < 0.5 * output_error(
        weight, rounded, moments
    )
    expected = np.square(solved.values() - weight).sum()
    assert solved.error == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("act_order", [False, True])
def test_gptq_only_rounds_where_inputs_are_uncorrelated(act_order: bool) -> None:
    weight, _ = _problem(128)
    encoding = BlockEncoding(4, 32, method="rtn")
    solved = solve_gptq(weight, 0, np.eye(128), encoding, act_order=act_order, sweeps=0)
    rounded = quantize_weight(ir.Tensor(weight), encoding, 0)
    np.testing.assert_array_equal(solved.integers, rounded.integers)
    np.testing.assert_array_equal(solved.scales, rounded.scales)


def test_gptq_of_a_transposed_weight_is_the_transposed_result() -> None:
    weight, moments = _problem()
    encoding = BlockEncoding(4, 32, method="mse")
    one = solve_gptq(weight, 0, moments, encoding)
    other = solve_gptq(np.ascontiguousarray(weight.T), 1, moments, encoding)
    np.testing.assert_array_equal(one.integers, other.integers.T)
    np.testing.assert_allclose(one.values(), other.values().T)


def test_gptq_bears_inputs_that_are_always_zero_and_few_samples() -> None:
    weight, _ = _problem(64)
    inputs = np.random.default_rng(1).standard_normal((3, 64))
    inputs[:, 5] = 0
    solved = solve_gptq(weight, 0, inputs.T @ inputs, BlockEncoding(4, 32))
    assert np.isfinite(solved.values()).all()
    assert abs(solved.values()[5] - weight[5]).max() < 0.5


def test_awq_scales_the_channels_with_large_activations() -> None:
    weight, moments = _problem()
    encoding = BlockEncoding(4, 32, method="mse")
    scales = search_scales([(weight, encoding)], moments)
    assert scales[::40].mean() > 1.5 * scales.mean()
    scaled = quantize_weight(ir.Tensor(weight * scales[:, None]), encoding, 0).values()
    plain = quantize_weight(ir.Tensor(weight), encoding, 0).values()
    assert output_error(weight, scaled / scales[:, None], moments) < 0.9 * output_error(
        weight, plain, moments
    )


def test_awq_leaves_even_activations_alone() -> None:
    weight, _ = _problem(64)
    np.testing.assert_array_equal(search_scales([(weight, BlockEncoding())], np.eye(64)), 1)


@pytest.mark.parametrize("block_size", [32, 0])
@pytest.mark.parametrize("symmetric", [False, True])
def test_every_sweep_of_coordinate_descent_lowers_the_error(
    block_size: int, symmetric: bool
) -> None:
    weight, moments = _problem(rows=150)  # the last block is not whole
    encoding = BlockEncoding(4, block_size, symmetric, "mse")
    errors = []
    for sweeps in (0, 1, 2, 4):
        solved = solve_gptq(weight, 0, moments, encoding, damping=1e-4, sweeps=sweeps)
        assert solved.integers.max() <= encoding.levels
        errors.append(output_error(weight, solved.values(), moments))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.95 * errors[0]


def test_inputs_that_are_always_zero_leave_their_rows_rounded() -> None:
    weight, moments = _problem(128)
    moments[40:50] = moments[:, 40:50] = 0
    solved = solve_gptq(weight, 0, moments, BlockEncoding(4, 32, method="mse"))
    error = np.abs(solved.values() - weight)[40:50].max()
    assert error < 1.0  # of weights up to 3.5
