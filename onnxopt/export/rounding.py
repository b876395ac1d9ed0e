"""What the roundings of a quantized PyTorch model amount to. This module needs torch.

Two correct kernels round a value that lies between two integers to different ones: they add in
another order, multiply by 1 / scale or divide by it, round the bias to int32. So a quantized model
is known only as far as its outputs stay the same when such values are rounded the other way.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# How far from the middle between two integers kernels disagree, in steps. An int32 bias, the
# largest of these differences, is off by half of a step that is hundreds of times smaller.
_SHARE = 0.01
# Quantizers of activations, with one scale in all or one for each row: those of PT2E, of
# FakeQuantize modules, of torch.ao's converted ones and of torchao. Scales of channels belong to
# weights, whose integers are known.
_QUANTIZERS = (
    *("quantize_per_tensor", "quantize_per_token", "quantize_affine"),
    *("fake_quantize_per_tensor", "_fake_quantize_per_tensor", "fake_quantize_affine"),
)


class ShiftedRounding(TorchDispatchMode):
    """Moves what is quantized by up to a hundredth of a step, inside the block.

    Args:
        seed: Of the random numbers.

    Attributes:
        quantizers: How many times something was quantized.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.quantizers = 0
        self._generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operator, a quantizer on values that were moved."""
        if func._schema.name.rpartition("::")[2].startswith(_QUANTIZERS):
            self.quantizers += 1
            args = (self._moved(func, *args), *args[1:])
        return func(*args, **(kwargs or {}))

    def _moved(self, func: Any, values: torch.Tensor, *rest: Any) -> torch.Tensor:
        names = [argument.name for argument in func._schema.arguments]
        scale = rest[next(i for i, name in enumerate(names) if name in ("scale", "scales")) - 1]
        noise = torch.rand(values.shape, generator=self._generator) * 2 - 1
        return values + _SHARE * noise.to(values.dtype) * scale
