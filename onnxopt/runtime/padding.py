"""Leaving out of comparisons what a mask declares to be padding.

What a model computes for padding is used by nobody, and differs by much between correct models: a
softmax over masked keys only is anything.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxopt.runtime.axes import InputSpec
from onnxopt.runtime.dimensions import is_placeholder
from onnxopt.runtime.session import Declared

# In these masks 1 is padding; in all others it is what counts.
_INVERTED = re.compile(r"pad", re.I)


def without_padding(output: Any, mask: Any) -> Any:
    """The positions that a mask keeps, in one axis; the output itself if the mask does not fit."""
    kept: NDArray[np.bool_] = np.asarray(mask) != 0
    if not isinstance(output, np.ndarray) or output.shape[:2] != kept.shape or kept.all():
        return output
    return output[kept]


def masked_outputs(
    specs: Sequence[InputSpec], inputs: Sequence[Declared], outputs: Sequence[Declared]
) -> dict[str, str]:
    """Outputs that have an entry for every position of a mask: output name to that of the mask.

    Args:
        specs: What the inputs mean.
        inputs: How they are declared.
        outputs: The outputs; their first two dimensions have to be those of the mask by symbol,
            or unknown and followed by a third one.
    """
    declared = {value.name: value.shape for value in inputs}
    masks = {
        spec.name: declared[spec.name]
        for spec in specs
        if spec.role.kind == "mask"
        and not _INVERTED.search(spec.name)
        and len(declared.get(spec.name, ())) == 2
    }
    found: dict[str, str] = {}
    for output in outputs:
        for name, dims in masks.items():
            if len(output.shape) >= 2 and _same_axes(output.shape, dims):
                found.setdefault(output.name, name)
    return found


def _same_axes(output: Sequence[int | str | None], mask: Sequence[int | str | None]) -> bool:
    batch, sequence = output[:2]
    if _is_known(sequence) and sequence == mask[1]:
        return not _is_known(batch) or not _is_known(mask[0]) or batch == mask[0]
    # By size, which the run decides; of rank 3, since [batch, classes] may be as long by chance.
    return len(output) >= 3 and not _is_known(sequence) and not _is_known(mask[1])


def _is_known(dim: int | str | None) -> bool:
    return dim is not None and not (isinstance(dim, str) and is_placeholder(dim))
