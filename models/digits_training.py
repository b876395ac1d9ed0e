"""Trains, exports and scores the digit classifiers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from digits_data import digits
from exporting import Exporter
from spec import Input

if TYPE_CHECKING:
    from torch import Tensor, nn

INPUTS = {"image": Input("float32", ("batch", 1, 8, 8), "digits")}


def train_and_export(
    create: Callable[[], nn.Module], epochs: int, exporter: Exporter, path: Path
) -> None:
    """Trains a classifier and writes it with its accuracy on the held-out digits.

    The accuracy is that of the file in ONNX Runtime, and stands in its metadata.

    Args:
        create: Makes the untrained network.
        epochs: Passes over the training images.
        exporter: How to write it.
        path: The file to write.
    """
    import torch

    torch.manual_seed(0)
    module = create()
    train(module, epochs)
    exporter.export(module.eval(), INPUTS, {"logits": ("batch", 10)}, path)
    model = ir.load(path)
    for node in model.graph:
        node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)  # names local files
    model.metadata_props["source"] = "trained on three quarters of scikit-learn's digits"
    model.metadata_props["test_accuracy"] = f"{accuracy(path):.4f}"
    model.metadata_props["test_images"] = str(len(digits().test_labels))
    ir.save(model, path)


def accuracy(path: Path) -> float:
    """The share of held-out digits that a model gets right in ONNX Runtime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: digits().test_images})
    return float((np.asarray(logits).argmax(axis=1) == digits().test_labels).mean())


def train(module: nn.Module, epochs: int, rate: float = 4e-3) -> None:
    """Trains a classifier on the training digits; it is left in training mode.

    Args:
        module: Changed in place.
        epochs: Passes over the images.
        rate: Largest learning rate, of a schedule that rises to it and falls to zero.
    """
    import torch
    from torch.nn import functional

    images = torch.from_numpy(digits().train_images)
    labels = torch.from_numpy(digits().train_labels)
    optimizer = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=0.02)
    batches = -(-len(images) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, epochs * batches)
    module.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(64):
            loss = functional.cross_entropy(
                module(_shifted(images[rows])), labels[rows], label_smoothing=0.05
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def _shifted(images: Tensor) -> Tensor:
    """The images, moved by up to one pixel in each direction."""
    import torch
    from torch.nn import functional

    down, right = torch.randint(0, 3, (2,)).tolist()
    return functional.pad(images, (1, 1, 1, 1))[..., down : down + 8, right : right + 8]
