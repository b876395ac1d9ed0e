"""Attention masks that can be exported, where transformers' own cannot.

transformers 4 computes masks with `torch.vmap`, which the TorchScript exporter stops at, and
leaves them out where it sees no padding, which an export would bake in. Here the same mask
functions run on index tensors that broadcast. transformers 5 does that by itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from onnxopt.export.parts import Tensor


@contextlib.contextmanager
def exportable_masks() -> Iterator[None]:
    """Masks without vmap, for all transformers models, inside the block."""
    try:
        from transformers import masking_utils
    except ImportError:  # no transformers, or one from before masks had a module
        yield
        return
    if not hasattr(masking_utils, "_vmap_for_bhqkv"):
        yield
        return
    original = masking_utils.sdpa_mask
    table = masking_utils.ALL_MASK_ATTENTION_FUNCTIONS
    registered = table["sdpa"]
    masking_utils.sdpa_mask = _broadcast_mask
    table["sdpa"] = _broadcast_mask
    try:
        yield
    finally:
        masking_utils.sdpa_mask = original
        table["sdpa"] = registered


def _broadcast_mask(
    batch_size: int,
    cache_position: Tensor,
    kv_length: int,
    kv_offset: int = 0,
    mask_function: Any = None,
    attention_mask: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """A boolean mask of shape [batch, 1, query, key], True where a query may look."""
    import torch
    from transformers import masking_utils

    function = mask_function or masking_utils.causal_mask_function
    padding = masking_utils.prepare_padding_mask(attention_mask, kv_length, kv_offset, _slice=False)
    if padding is not None:
        function = masking_utils.and_masks(function, masking_utils.padding_mask_function(padding))
    device = cache_position.device
    keys = torch.arange(kv_length, device=device) + kv_offset
    mask = function(
        torch.arange(batch_size, device=device)[:, None, None, None],
        torch.arange(1, device=device)[None, :, None, None],
        cache_position[None, None, :, None],
        keys[None, None, None, :],
    )
    return mask.expand(batch_size, -1, cache_position.shape[0], kv_length)
