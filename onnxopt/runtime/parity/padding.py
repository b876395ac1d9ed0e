"""Leaving out of comparisons what a mask declares to be padding.

What a model computes for padding is used by nobody, and differs by much between correct models: a
softmax over masked keys only is anything. NaN and infinities count there as well: they spread
as soon as somebody multiplies them with zero.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxopt.runtime.inputs.axes import InputSpec, axis_kinds, symbols_of
from onnxopt.runtime.inputs.dimensions import is_placeholder
from onnxopt.runtime.session import Declared

# In these masks 1 is padding; in all others it is what counts.
_INVERTED = re.compile(r"pad", re.I)


@dataclasses.dataclass(frozen=True)
class Masked:
    """An output that has an entry for every position of a mask.

    Attributes:
        mask: Name of the input, of shape [batch, positions].
        axis: The output's axis that has these positions, or the last of them; axis 0 is the batch.
    """

    mask: str
    axis: int


def describe(masks: Mapping[str, Masked]) -> list[str]:
    """What is left out of which outputs, in words."""
    inputs = sorted({masked.mask for masked in masks.values()})
    return [f"padding by {', '.join(inputs)} left out of: {', '.join(masks)}"] if masks else []


def trimmed(
    outputs: Mapping[str, Any], feeds: Mapping[str, Any], masks: Mapping[str, Masked]
) -> dict[str, Any]:
    """Results of which padding is zero; see `without_padding`.

    Args:
        outputs: Output name to result.
        feeds: Input name to what was fed.
        masks: Output name to what masks it.
    """
    return {
        name: without_padding(output, feeds[masks[name].mask], masks[name].axis)
        if name in masks and masks[name].mask in feeds
        else output
        for name, output in outputs.items()
    }


def without_padding(output: Any, mask: Any, axis: int = 1) -> Any:
    """The output with zeros for what the mask leaves out; itself if the mask does not fit.

    NaN and infinities stay.

    Args:
        output: A result, `[batch, ..., positions, ...]`.
        mask: `[batch, positions]`; of a mask that is longer, as one that covers a past as well,
            the last positions count.
        axis: The output's axis of the positions.
    """
    kept: NDArray[np.bool_] = np.asarray(mask) != 0
    if not isinstance(output, np.ndarray) or output.ndim <= axis or output.shape[0] != len(kept):
        return output
    positions = output.shape[axis]
    kept = kept[:, kept.shape[1] - positions :] if positions <= kept.shape[1] else kept
    if kept.shape[1] != positions or kept.all() or output.dtype.kind in "OUS":
        return output
    shape = [len(kept)] + [1] * (output.ndim - 1)
    shape[axis] = positions
    left_out = np.broadcast_to(~kept.reshape(shape), output.shape)
    blank = output.copy()
    if output.dtype.kind in "fcV":
        numbers = output.astype(np.float32) if output.dtype.kind == "V" else output
        blank[left_out & np.isfinite(numbers)] = 0
    else:
        blank[left_out] = 0
    return blank


def masked_outputs(
    specs: Sequence[InputSpec], inputs: Sequence[Declared], outputs: Sequence[Declared]
) -> dict[str, Masked]:
    """Outputs that have an entry for every position of a mask, and where.

    Args:
        specs: What the inputs mean.
        inputs: How they are declared.
        outputs: The outputs. One of their axes has the mask's positions, or those of the tokens if
            the mask covers a past as well, by symbol; or their first two dimensions are unknown and
            followed by a third one.
    """
    declared = {value.name: value.shape for value in inputs}
    masks = {
        spec.name: declared[spec.name]
        for spec in specs
        if spec.role.kind == "mask"
        and not _INVERTED.search(spec.name)
        and len(declared.get(spec.name, ())) == 2
    }
    tokens = _positions_of_tokens(specs, declared)
    found: dict[str, Masked] = {}
    for output in outputs:
        for name, dims in masks.items():
            axis = _axis(output.shape, dims, tokens if _covers_past(dims[1], specs) else None)
            if axis is not None:
                found.setdefault(output.name, Masked(name, axis))
    return found


def _axis(
    output: Sequence[int | str | None],
    mask: Sequence[int | str | None],
    tokens: int | str | None,
) -> int | None:
    if len(output) < 2 or (_is_known(output[0]) and _is_known(mask[0]) and output[0] != mask[0]):
        return None
    for axis, dim in enumerate(output[1:], start=1):
        # Sizes alone agree by chance, except those of the second axis.
        if _is_known(dim) and dim in (mask[1], tokens) and (axis == 1 or isinstance(dim, str)):
            return axis
    # By size, which the run decides; of rank 3, since [batch, classes] may be as long by chance.
    if len(output) >= 3 and not _is_known(output[1]) and not _is_known(mask[1]):
        return 1
    return None


def _positions_of_tokens(
    specs: Sequence[InputSpec], declared: Mapping[str, Sequence[int | str | None]]
) -> int | str | None:
    """The dimension of the tokens."""
    for spec in specs:
        shape = declared.get(spec.name, ())
        if spec.role.kind == "tokens" and len(shape) == 2:
            return shape[1]
    return None


def _covers_past(dim: int | str | None, specs: Sequence[InputSpec]) -> bool:
    if not isinstance(dim, str):
        return False
    kinds = axis_kinds(specs)
    return any(kinds.get(symbol) in ("total", "past") for symbol in symbols_of(dim))


def _is_known(dim: int | str | None) -> bool:
    return dim is not None and not (isinstance(dim, str) and is_placeholder(dim))
