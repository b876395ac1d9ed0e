"""First-order effects of weights on a model's outputs, by its own gradients; no labels.

With y the outputs and v a random vector of variance 1, L = v . y / |y - mean(y)| has E[(dL/dw)^2] =
|dy/dw|^2 / |y - mean(y)|^2: the curvature of the distillation loss at the model itself, where the
gradient of that loss is zero (empirical Fisher information).
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


def first_order_effects(
    model: ir.Model,
    weights: Collection[str],
    data: CalibrationData,
    samples: Sequence[int],
    seed: int = 0,
) -> Iterator[dict[str, NDArray[np.float32]]]:
    """Yields w * dL/dw of weights, once or more for each sample.

    Memory is that of the model's weights, twice, and of all activations of a run.

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
    for index in samples:
        one = data[index]
        loss = _random_loss(module(one.feeds), draws, generator)
        for place, item in enumerate(loss):
            gradients = torch.autograd.grad(
                item, list(chosen.values()), retain_graph=place + 1 < draws, allow_unused=True
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


def _random_loss(outputs: dict[str, Any], draws: int, generator: torch.Generator) -> list[Any]:
    """Random projections of the outputs, each output relative to its spread."""
    floats = [y for y in outputs.values() if y.is_floating_point() and y.requires_grad]
    if not floats:
        raise InvalidInputError("no output of the model depends on its weights in a smooth way")
    spreads = [y.detach().sub(y.detach().mean()).norm() + 1e-12 for y in floats]
    losses = []
    for _ in range(draws):
        parts = [
            (torch.randn(y.shape, generator=generator) * y).sum() / spread
            for y, spread in zip(floats, spreads, strict=True)
        ]
        losses.append(torch.stack(parts).sum() / len(parts) ** 0.5)
    return losses
