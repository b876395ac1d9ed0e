"""The API of `onnxopt.recover`."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnxopt.calibration.data import CalibrationData, open_data
from onnxopt.calibration.measuring import HELD_OUT
from onnxopt.core.errors import InvalidInputError, MissingDependencyError, OnnxOptError
from onnxopt.graph.accepting import accepted_model
from onnxopt.graph.loading import load_model
from onnxopt.graph.saving import check_target, save_model
from onnxopt.recovering.report import RecoveryReport
from onnxopt.runtime.diagnosis.probing import open_plain
from onnxopt.runtime.library import CannotRunError, require_runtime
from onnxopt.runtime.loadable import opens
from onnxopt.runtime.session import Session, open_session

if TYPE_CHECKING:
    from onnx import ModelProto

    from onnxopt.recovering.module import GraphModule

PathLike = str | os.PathLike[str]
# How far the module may be from ONNX Runtime, relative to the size of an output.
_AGREES = 1e-3


@dataclasses.dataclass(frozen=True)
class RecoverResult:
    """A model with trained weights, and the record of the training."""

    model: ir.Model
    report: RecoveryReport


def recover(
    model: PathLike | ir.Model | ModelProto,
    original: PathLike | ir.Model | ModelProto,
    output: PathLike | None = None,
    *,
    calibration: Any,
    epochs: int = 10,
    learning_rate: float = 3e-4,
    train_embeddings: bool = False,
    preprocess: str | Callable[[Path], Any] | None = None,
    tokenizer: PathLike | None = None,
    samples: int | None = None,
    seed: int = 0,
    external_data: bool | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> RecoverResult:
    """Trains a pruned or quantized model to give what the original gives; no labels.

    The graph stays as it is: its weights become parameters of a PyTorch module that runs it node by
    node, and are written back. QuantizeLinear and DequantizeLinear round in every run, gradients
    pass them (quantization-aware training). The epoch with the least error on held-out data is
    kept, or the model as it was.

    Args:
        model: The model to train, as a file or in memory; left as it is.
        original: The model to reproduce, with the same inputs and outputs.
        output: Where to write the result; None to only return it.
        calibration: Inputs like those of the application (see `calibration.data.open_data`).
        epochs: Passes over the data.
        learning_rate: That of Adam at the start; it falls to zero as a cosine.
        train_embeddings: Train tables of embeddings, too.
        preprocess: How images become arrays.
        tokenizer: A folder with a tokenizer.json, for text.
        samples: Use no more input sets than this.
        seed: Of the order of the samples.
        external_data: Keep weights in a separate file; by default only over protobuf's 2 GB.
        progress: Told the epoch, the number of all, and the error.

    Raises:
        MissingDependencyError: PyTorch is not installed.
        OnnxOptError: An operator has no counterpart in PyTorch (all are named), the data does not
            fit, or the models differ in inputs or outputs.
    """
    if epochs < 1 or not 0 < learning_rate < math.inf:
        raise InvalidInputError("epochs and the learning rate have to be more than 0, and finite")
    try:
        import torch
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "PyTorch is needed to train: pip install 'onnxopt[export]'"
        ) from error
    require_runtime()
    from onnxopt.recovering.module import GraphModule

    student = _loaded(model).clone()
    teacher = _loaded(original)
    if output is not None:
        check_target(student, output)
    if calibration is None:
        raise InvalidInputError("training needs data like that of the application")
    opened = open_data(
        calibration, student, preprocess=preprocess, tokenizer=tokenizer, limit=samples
    )
    module = GraphModule(student, train_embeddings=train_embeddings)
    training, held_out = opened.split(HELD_OUT)
    goals = _Goals(opened, _opened(teacher, "the original"))
    _check_agreement(module, student, opened, held_out[0])
    torch.manual_seed(seed)
    report = _train(module, goals, training, held_out, epochs, learning_rate, seed, progress)
    module.write_back(student)
    if output is not None:
        save_model(student, output, external_data=external_data, verify=opens("the trained model"))
    source, written = (
        os.fspath(one) if isinstance(one, (str, os.PathLike)) else "" for one in (model, output)
    )
    report = dataclasses.replace(report, source=source, output=written, notes=opened.notes)
    return RecoverResult(student, report)


class _Goals:
    """What the original gives, computed when it is asked for."""

    def __init__(self, data: CalibrationData, session: Session) -> None:
        self._data, self._session = data, session

    def sample(self, index: int) -> tuple[Mapping[str, Any], dict[str, Any]]:
        feeds = self._data[index].feeds
        return feeds, self._session.run(feeds)


def _train(
    module: GraphModule,
    goals: _Goals,
    training: Sequence[int],
    held_out: Sequence[int],
    epochs: int,
    learning_rate: float,
    seed: int,
    progress: Callable[[int, int, float], None] | None,
) -> RecoveryReport:
    import torch

    parameters = list(module.parameters())
    if not parameters:
        raise InvalidInputError("the model has no weights that can be trained")
    # Steps relative to the size of each weight: integers of QDQ models are a hundred times larger.
    groups = [
        {"params": [p], "lr": learning_rate * max(float(p.detach().abs().mean()), 1e-3) * 10}
        for p in parameters
    ]
    optimizer = torch.optim.Adam(groups)
    steps = epochs * len(training)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    before = _error(module, goals, held_out)
    best, chosen = before, 0
    kept = {name: value.clone() for name, value in module.state_dict().items()}
    errors, left_out = [], 0
    rng = np.random.default_rng(seed)
    for epoch in range(1, epochs + 1):
        for index in rng.permutation(np.asarray(training)):
            feeds, wanted = goals.sample(int(index))
            optimizer.zero_grad()
            loss = _loss(module(feeds), wanted)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            # A step of NaN would end the training of all that is left.
            if torch.isfinite(norm):
                optimizer.step()
                schedule.step()
            else:
                left_out += 1
        errors.append(_error(module, goals, held_out))
        if progress is not None:
            progress(epoch, epochs, errors[-1])
        if errors[-1] < best:
            best, chosen = errors[-1], epoch
            kept = {name: value.clone() for name, value in module.state_dict().items()}
    module.load_state_dict(kept)
    count = sum(p.numel() for p in parameters)
    return RecoveryReport(
        count,
        len(training),
        len(held_out),
        before,
        tuple(errors),
        chosen,
        is_apart=not set(training) & set(held_out),
        left_out=left_out,
    )


def _loss(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> Any:
    """Mean square error of the float outputs, each relative to its variance."""
    import torch

    losses = []
    for name, array in wanted.items():
        if name not in found:
            raise InvalidInputError(f"the model lacks output {name!r} of the original")
        if array.dtype.kind != "f":
            continue
        goal = torch.from_numpy(array).float()
        if goal.shape != found[name].shape:
            raise InvalidInputError(
                f"output {name!r} is of shape {list(found[name].shape)}, that of the original of "
                f"shape {list(goal.shape)}"
            )
        variance = goal.var(unbiased=False) + 1e-12
        losses.append((found[name] - goal).square().mean() / variance)
    if not losses:
        raise InvalidInputError("the models have no float output in common to train on")
    return torch.stack(losses).mean()


def _error(module: GraphModule, goals: _Goals, samples: Sequence[int]) -> float:
    import torch

    with torch.no_grad():
        losses = []
        for index in samples:
            feeds, wanted = goals.sample(index)
            losses.append(float(_loss(module(feeds), wanted)))
    return sum(losses) / len(losses)


def _check_agreement(
    module: GraphModule, model: ir.Model, data: CalibrationData, index: int
) -> None:
    """The module has to compute what ONNX Runtime computes, or training it is in vain.

    Compared with what is written: optimized, products with integer weights round activations, too.
    """
    import torch

    feeds = data[index].feeds
    session = _opened(model, "the model", optimized=False)
    with torch.no_grad():
        found = module(feeds)
    for name, wanted in session.run(feeds).items():
        if wanted.dtype.kind != "f":
            continue
        difference = np.sqrt(np.mean(np.square(found[name].numpy() - wanted)))
        if not difference <= _AGREES * np.sqrt(np.mean(np.square(wanted))) + 1e-6:
            raise OnnxOptError(
                f"the model cannot be trained: in PyTorch output {name!r} differs from ONNX "
                f"Runtime's by {difference:.2g}"
            )


def _loaded(model: PathLike | ir.Model | ModelProto) -> ir.Model:
    return load_model(model) if isinstance(model, (str, os.PathLike)) else accepted_model(model)


def _opened(model: ir.Model, name: str, *, optimized: bool = True) -> Session:
    try:
        return open_session(model, spinning=False) if optimized else open_plain(model)
    except CannotRunError as error:
        raise InvalidInputError(f"{name} does not load: {error.reason}") from error
