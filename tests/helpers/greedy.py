"""Greedy generation, with an exported decoder and with PyTorch, token by token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxopt.runtime.session import Session, open_session


def generate_onnx(
    folder: Path, prompt: NDArray[Any], mask: NDArray[Any], steps: int
) -> NDArray[Any]:
    """New tokens of an exported decoder: the prompt with an empty past, then one token a step.

    Args:
        folder: The export.
        prompt: Token ids of shape [batch, sequence], padded on the left.
        mask: Ones where the prompt is no padding, of the same shape.
        steps: Number of new tokens.
    """
    session = open_session(folder / "model.onnx")
    past = _empty_past(session, len(prompt))
    ids, tokens = prompt, []
    for _ in range(steps):
        positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)[:, -ids.shape[1] :]
        feeds = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, **past}
        outputs = session.run(feeds)
        ids = outputs["logits"][:, -1:].argmax(axis=-1)
        tokens.append(ids)
        past = {name: outputs[name.replace("past_key_values", "present")] for name in past}
        mask = np.concatenate([mask, np.ones_like(ids)], axis=1)
    return np.concatenate(tokens, axis=1)


def generate_seq2seq(
    folder: Path, feeds: dict[str, NDArray[Any]], start: int, steps: int
) -> NDArray[Any]:
    """New tokens of an exported encoder and decoder.

    Args:
        folder: The export.
        feeds: Inputs of the encoder.
        start: The token that the decoder starts with.
        steps: Number of new tokens.
    """
    encoded = open_session(folder / "encoder_model.onnx").run(feeds)
    session = open_session(folder / "decoder_model.onnx")
    batch = len(next(iter(feeds.values())))
    past = {n: a for n, a in _empty_past(session, batch).items() if ".decoder." in n}
    cross = {
        name.replace("present", "past_key_values"): array
        for name, array in encoded.items()
        if name.startswith("present")
    }
    if "attention_mask" in feeds:
        cross["encoder_attention_mask"] = feeds["attention_mask"]
    ids, tokens = np.full((batch, 1), start), []
    for _ in range(steps):
        outputs = session.run({"input_ids": ids, **past, **cross})
        ids = outputs["logits"][:, -1:].argmax(axis=-1)
        tokens.append(ids)
        past = {name: outputs[name.replace("past_key_values", "present")] for name in past}
    return np.concatenate(tokens, axis=1)


def _empty_past(session: Session, batch: int) -> dict[str, NDArray[Any]]:
    found = {}
    for value in session.inputs:
        if value.name.startswith("past_key_values"):
            _, heads, _, size = value.shape
            assert isinstance(heads, int)
            assert isinstance(size, int)
            found[value.name] = np.zeros((batch, heads, 0, size), np.float32)
    return found
