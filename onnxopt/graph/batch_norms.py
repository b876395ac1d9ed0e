"""BatchNormalization that no convolution takes up, seen as one 1x1 matrix for each channel.

    y = (x - mean) / sqrt(variance + epsilon) * scale + shift  =  x * w + b

so that it is fitted as any product is: with y what it should give, w takes up the variance that its
input has now, and b the mean.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxopt.graph.linear_maps import Floats, LinearMap
from onnxopt.graph.values import constant


@dataclasses.dataclass(frozen=True)
class BatchNorm(LinearMap):
    """A BatchNormalization in inference; the weight is its scale, the bias its shift."""

    @property
    def group(self) -> int:
        """The channels."""
        assert self.weight.const_value is not None
        return self.weight.const_value.size

    @property
    def output_axis(self) -> int:
        """The channels'."""
        return 1

    @property
    def inputs(self) -> int:
        """Of each channel."""
        return 1

    def matrices(self) -> NDArray[np.float64]:
        """`[channels, 1, 1]`."""
        return (self._number(1) / self._deviation).reshape(-1, 1, 1)

    def bias_array(self) -> NDArray[np.float64]:
        """What is added in the end."""
        return self._number(2) - self._number(3) * self.matrices().reshape(-1)

    def store(self, matrices: Floats, bias: NDArray[np.float64] | None) -> None:
        """Writes scale and shift; the mean and variance stay those of the training."""
        factors = matrices.reshape(-1).astype(np.float64)
        shift = self.bias_array() if bias is None else bias
        self._write(1, factors * self._deviation)
        self._write(2, shift + self._number(3) * factors)

    def rows(
        self, source: Floats, output: Floats, most: int, rng: np.random.Generator
    ) -> tuple[Floats, Floats]:
        """Up to `most` values of each channel, `[rows, channels, 1]`, in and out."""
        x, y = (np.moveaxis(a, 1, -1).reshape(-1, a.shape[1]) for a in (source, output))
        if len(x) > most:
            chosen = np.sort(rng.choice(len(x), most, replace=False))
            x, y = x[chosen], y[chosen]
        return x[..., None], y[..., None]

    @property
    def _deviation(self) -> NDArray[np.float64]:
        epsilon = self.node.attributes.get("epsilon")
        found: NDArray[np.float64] = np.sqrt(
            self._number(4) + (1e-5 if epsilon is None else epsilon.as_float())
        )
        return found

    def _number(self, place: int) -> NDArray[np.float64]:
        array = constant(self.node.inputs[place])
        assert array is not None
        return array.astype(np.float64)

    def _write(self, place: int, array: NDArray[np.float64]) -> None:
        value = self.node.inputs[place]
        assert value is not None
        assert value.const_value is not None
        dtype = value.const_value.dtype
        value.const_value = ir.Tensor(array.astype(dtype.numpy()), dtype=dtype, name=value.name)


def batch_norms(model: ir.Model) -> Iterator[BatchNorm]:
    """Those of the main graph whose numbers are all constant, in its order."""
    for node in model.graph:
        if node.op_type != "BatchNormalization" or node.domain or len(node.inputs) < 5:
            continue
        source, scale, shift = node.inputs[:3]
        training = node.attributes.get("training_mode")
        if source is None or scale is None or shift is None or scale is shift:
            continue
        if any(constant(v) is None or not v.is_initializer() for v in node.inputs[1:5] if v):
            continue
        if training is None or not training.as_int():
            yield BatchNorm(node, source, scale, shift)
