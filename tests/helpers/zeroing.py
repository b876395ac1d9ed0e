"""Setting units to zero, so that removing them must not change what a model computes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxopt.core.names import Names
from onnxopt.graph.axes.groups import find_groups
from onnxopt.passes.pruning.unsharing import unshare


def zero_units(model: ir.Model, share: float = 0.3, seed: int = 0) -> int:
    """Sets all weights of some units of every group to zero; returns the number of units.

    Groups that a normalization averages over are left alone, and so is one unit of every group.
    """
    unshare(model, Names(model))
    rng = np.random.default_rng(seed)
    arrays: dict[ir.Value, NDArray[np.float32]] = {}
    count = 0
    for group in find_groups(model):
        if group.statistics or len(group) < 2:
            continue
        chosen = rng.permutation(len(group))[: max(1, int(share * len(group)))]
        count += len(chosen)
        for item in group.slices:
            tensor = item.value.const_value
            assert tensor is not None
            array = arrays.setdefault(item.value, tensor.numpy().copy())
            if item.role != "statistics":
                np.moveaxis(array, item.axis, 0)[np.isin(item.units, chosen)] = 0
    for value, array in arrays.items():
        value.const_value = ir.Tensor(array, name=value.name)
    return count
