"""Attention in canonical form: what the walk over any spelling of it finds.

softmax(scale * query key^T + masks) value        or with a cap, of cap * tanh(score / cap)
"""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from onnxopt.passes.fusion.attention.heads import Heads

# What is added to masked scores, or stands for them, is no larger: e^-1e4 is no number any more.
MASKED = -1e4


@dataclasses.dataclass(frozen=True)
class Mask:
    """A summand of the scores.

    Attributes:
        value: The additive mask or, with a `fill`, a boolean one.
        factor: What the additive mask is multiplied by.
        keep: A boolean mask is True where the score stays; else True where it is masked out.
        fill: The number that stands for a masked score; None for an additive mask.
        windowed: The batch consists of the windows of each image, and the mask has an axis of them
            before that of the heads.
    """

    value: ir.Value
    factor: float = 1.0
    keep: bool = True
    fill: float | None = None
    windowed: bool = False


@dataclasses.dataclass(frozen=True)
class Attention:
    """Attention in canonical form.

    Attributes:
        query: Heads of the query.
        key: Heads of the key, as many as those of the query.
        value: Heads of the value.
        scale: What the products of query and key are multiplied by.
        masks: What is added to the scores.
        cap: The scores are `cap * tanh(score / cap)` before masks are added; 0 for no cap.
        guarded: Rows that are NaN count as zero.
        output: The product of probabilities and values.
    """

    query: Heads
    key: Heads
    value: Heads
    scale: float
    masks: tuple[Mask, ...]
    cap: float
    guarded: bool
    output: ir.Value


class UnlikeError(Exception):
    """It begins like attention; the message says where it stops being it."""
