"""`prune`: a smaller model, its weights re-fitted to what the original computes; `mask_weights`."""

from __future__ import annotations

from onnxopt.pruning.mask_report import MaskReport
from onnxopt.pruning.masking import MaskResult, mask_weights
from onnxopt.pruning.options import Vocabulary
from onnxopt.pruning.report import PruningReport
from onnxopt.pruning.running import PruneResult, prune

__all__ = [
    "MaskReport",
    "MaskResult",
    "PruneResult",
    "PruningReport",
    "Vocabulary",
    "mask_weights",
    "prune",
]
