"""Seeded random weights under which no part of a network is trivial."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from spec import Input, example_inputs

if TYPE_CHECKING:
    from torch import nn


def randomize(module: nn.Module, seed: int = 0) -> None:
    """Redraws every parameter, so that signals keep their size and nothing is zero or one.

    Matrices and kernels get a standard deviation of 1 / sqrt(fan in); scales of normalizations
    and layers lie around 1 and biases around 0, both with a deviation of 0.1.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1:
                mean, deviation = 0.0, 1 / math.sqrt(parameter[0].numel())
            else:
                mean, deviation = 0.0 if name.endswith("bias") else 1.0, 0.1
            parameter.normal_(mean, deviation, generator=generator)


def settle_batch_norms(module: nn.Module, inputs: Mapping[str, Input], seed: int = 0) -> None:
    """Sets the running statistics of batch normalizations to those of one random batch.

    The module is left in evaluation mode.
    """
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    arrays = example_inputs(inputs, {"batch": 8}, seed)
    for part in module.modules():
        if isinstance(part, _BatchNorm):
            part.momentum = None  # a plain average instead of an exponential one
            part.reset_running_stats()
    module.train()
    torch.manual_seed(seed)
    with torch.no_grad():
        module(*(torch.from_numpy(arrays[name]) for name in inputs))
    module.eval()
