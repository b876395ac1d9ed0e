"""Graphs of any size that look like Swin-T: narrow Swins in a row, for measuring costs per node.

Each stage reads the image that the one before it shifted, and has weights of its own, so that
neither dead code nor common subexpressions shorten the row:

    Add(image, shift) -> Swin, 8,549 nodes -> Unsqueeze -> the next shift
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import onnx.compose
from exporting import TORCHSCRIPT
from imagenet import INPUTS
from spec import ModelSpec


def swin_like(scale: int) -> ModelSpec:
    """A model with `scale` times the nodes of Swin-T, and narrow weights."""
    return ModelSpec(
        name=f"swin_like_{scale}",
        source="transformers Swin, narrow and repeated, seeded random weights",
        opset=TORCHSCRIPT.opset,
        inputs=INPUTS,
        tolerance=1e-5,
        build=partial(_build, scale),
    )


def _build(scale: int, path: Path) -> None:
    _export_stage(path)
    stage = onnx.load(path)
    image = stage.graph.input[0]
    axes = onnx.numpy_helper.from_array(np.array([2, 3]), "axes")
    offset = onnx.numpy_helper.from_array(np.full((1, 3, 1, 1), 0.1, np.float32), "offset")
    row = onnx.helper.make_graph([], "swin_like", [image], [], [axes, offset])
    value, shift = image.name, "offset"
    for number in range(scale):
        prefix = f"stage{number}/"
        copy = _fresh_copy(stage, prefix, number).graph
        shifted = f"{prefix}{image.name}"
        row.node.append(onnx.helper.make_node("Add", [value, shift], [shifted]))
        row.node.extend(copy.node)
        row.initializer.extend(copy.initializer)
        value, shift = shifted, f"{prefix}shift"
        row.node.append(onnx.helper.make_node("Unsqueeze", [f"{prefix}logits", "axes"], [shift]))
    row.output.append(onnx.helper.make_tensor_value_info(shift, 1, ["batch", 3, 1, 1]))
    stage.graph.CopyFrom(row)
    onnx.save(stage, path)


def _export_stage(path: Path) -> None:
    from transformers import SwinConfig, SwinForImageClassification
    from weights import randomize
    from wrapping import returning

    config = SwinConfig(embed_dim=24, num_heads=[1, 2, 4, 8], num_labels=3)
    module = returning(SwinForImageClassification(config), "logits", tuple(INPUTS))
    randomize(module)
    TORCHSCRIPT.export(module, INPUTS, {"logits": ("batch", 3)}, path)


def _fresh_copy(stage: onnx.ModelProto, prefix: str, seed: int) -> onnx.ModelProto:
    """A copy with prefixed names and slightly different weights."""
    generator = np.random.default_rng(seed)
    copy = onnx.compose.add_prefix(stage, prefix)
    for tensor in copy.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            array = onnx.numpy_helper.to_array(tensor)
            noise = generator.uniform(0.9, 1.1, array.shape).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array * noise, tensor.name))
    return copy


SPECS = (swin_like(1), swin_like(3), swin_like(10))
