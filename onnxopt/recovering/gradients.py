"""First-order effects of weights on a model's outputs, by its own gradients; no labels.

With y an output of n numbers, s its standard deviation over all samples and v a random vector of
variance 1, L = v . y / (s sqrt(n)) has E[(dL/dw)^2] = |dy/dw|^2 / (s^2 n): the curvature of
the distillation loss at the model itself, where the gradient of that loss is zero (empirical Fisher
information).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from onnxopt.calibration.data import CalibrationData
from onnxopt.core.errors import InvalidInputError
from onnxopt.recovering.module import GraphModule

# Random vectors in all, at least: each is one sample of an expectation.
_FEWEST_DRAWS = 64
# Of the mean square of an output.
_ROUNDING = 1e-10


def first_order_effects(
    model: ir.Model,
    weights: Collection[str],
    data: CalibrationData,
    samples: Sequence[int],
    seed: int = 0,
) -> Iterator[dict[str, NDArray[np.float32]]]:
    """Yields w * dL/dw of weights, once or more for each sample.

    Memory is that of the model's weights, twice, and of all activations of a run. Every sample is
    run once more before, for the spread of the outputs.

    Args:
        model: A float model; left as it is.
        weights: Names of initializers; those that the module does not train are left out.
        data: What to run on.
        samples: Indexes of the input sets to use.
        seed: Of the random vectors.

    Raises:
        InvalidInputError: An operator has no counterpart in PyTorch, or a gradient is not finite.
    """
    module = GraphModule(model)
    chosen = {name: p for name, p in module.weights().items() if name in weights}
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    for parameter in chosen.values():
        parameter.requires_grad_(True)
    if not chosen:
        return
    generator = torch.Generator().manual_seed(seed)
    draws = -(-_FEWEST_DRAWS // len(samples))
    spreads = _spreads(module, data, samples)
    for index in samples:
        one = data[index]
        outputs = module(one.feeds)
        for place in range(draws):
            loss = _random_loss(outputs, spreads, generator)
            gradients = torch.autograd.grad(
                loss, list(chosen.values()), retain_graph=place + 1 < draws, allow_unused=True
            )
            effects = {
                name: (parameter.detach() * gradient).numpy()
                for (name, parameter), gradient in zip(chosen.items(), gradients, strict=True)
                if gradient is not None
            }
            bad = [name for name, array in effects.items() if not np.isfinite(array).all()]
            if bad:
                raise InvalidInputError(
                    f"the gradient of {bad[0]!r} is NaN or infinite on calibration sample {index} "
                    f"({one.description})"
                )
            yield effects


def _spreads(
    module: GraphModule, data: CalibrationData, samples: Sequence[int]
) -> dict[str, float]:
    """Standard deviation of each output of floats over all samples; of a constant its magnitude.

    Outputs that are always zero, or empty, are left out.
    """
    sums: dict[str, NDArray[np.float64]] = {}
    with torch.no_grad():
        for index in samples:
            for name, y in module(data[index].feeds).items():
                if y.is_floating_point():
                    wide = y.double()
                    found = [y.numel(), float(wide.sum()), float(wide.square().sum())]
                    sums[name] = sums.get(name, np.zeros(3)) + found
    spreads = {}
    for name, (count, total, squares) in sums.items():
        mean, power = total / max(count, 1), squares / max(count, 1)
        variance = power - mean * mean
        # Below that the variance is rounding.
        spreads[name] = float(variance if variance > _ROUNDING * power else power) ** 0.5
    return {name: spread for name, spread in spreads.items() if spread > 0}


def _random_loss(
    outputs: dict[str, Any], spreads: dict[str, float], generator: torch.Generator
) -> Any:
    """A random projection of the outputs, each output relative to its spread."""
    floats = {name: y for name, y in outputs.items() if name in spreads and y.requires_grad}
    if not floats:
        raise InvalidInputError("no output of the model depends on its weights in a smooth way")
    parts = [
        (torch.randn(y.shape, generator=generator) * y).sum() / (spreads[name] * y.numel() ** 0.5)
        for name, y in floats.items()
    ]
    return torch.stack(parts).sum() / len(parts) ** 0.5
