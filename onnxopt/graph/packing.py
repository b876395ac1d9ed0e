"""Integers of 4 and 8 bits as the operators read them.

MatMulNBits  [channels, blocks, bytes of a block]; two neighbours along the summed axis share a
             byte, the first one in its low half
ONNX         UINT4: neighbours in memory share a byte, the first one in its low half
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


def pack_rows(integers: Bytes, bits: int) -> Bytes:
    """Joins neighbours along the last axis: [..., n] -> [..., n bits / 8], padded with zeros."""
    if bits == 8:
        return integers
    if integers.shape[-1] % 2:
        integers = np.concatenate([integers, np.zeros_like(integers[..., :1])], -1)
    # Both halves of a pair as one little-endian number: low + 256 high -> low + 16 high.
    pairs = np.ascontiguousarray(integers).view("<u2")
    packed = pairs >> 4
    packed |= pairs
    return packed.astype(np.uint8)


def pack_columns(integers: Bytes, bits: int, out: Bytes) -> None:
    """Joins neighbours along the first axis and transposes: [k, n] -> out [n, k bits / 8].

    Args:
        integers: An even number of rows.
        bits: 4 or 8.
        out: Where to write.
    """
    if bits == 8:
        np.copyto(out, integers.T)
        return
    packed = integers[1::2] << 4
    packed |= integers[0::2]
    np.copyto(out, packed.T)


def pack_flat(integers: Bytes) -> Bytes:
    """The bytes of a UINT4 tensor."""
    return pack_rows(integers.reshape(-1), 4)
