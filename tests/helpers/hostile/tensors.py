"""Tensors that contradict themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from helpers.broken_models import make_model
from helpers.hostile.corpus import HUGE, case, int64s, save
from onnx import TensorProto, helper, numpy_helper


def _with_tensor(folder: Path, change: Callable[[TensorProto], object]) -> Path:
    model = make_model()
    change(model.graph.initializer[0])
    return save(folder, model)


@case
def tensor_of_exabytes(folder: Path) -> Path:
    return _with_tensor(folder, lambda t: t.dims.__setitem__(0, HUGE))


@case
def tensor_with_overflowing_dims(folder: Path) -> Path:
    return _with_tensor(folder, lambda t: t.dims.extend([2**33, 2**33]))


@case
def tensor_with_negative_dim(folder: Path) -> Path:
    return _with_tensor(folder, lambda t: t.dims.__setitem__(0, -1))


@case
def tensor_of_unknown_type(folder: Path) -> Path:
    return _with_tensor(folder, lambda t: setattr(t, "data_type", 999))


@case
def tensor_too_short(folder: Path) -> Path:
    return _with_tensor(folder, lambda t: setattr(t, "raw_data", t.raw_data[:5]))


@case
def tensor_without_name(folder: Path) -> Path:
    return _with_tensor(folder, lambda t: t.ClearField("name"))


@case
def sparse_tensor_of_terabytes(folder: Path) -> Path:
    model = make_model([helper.make_node("Identity", ["s"], ["y"])])
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(1, np.float32), "s"))
    sparse.indices.CopyFrom(numpy_helper.from_array(int64s(0), "i"))
    sparse.dims.extend([2**40])
    return save(folder, model)
