"""`prune`: a smaller model, its weights re-fitted to what the original computes."""

from __future__ import annotations

from onnxopt.pruning.options import Vocabulary
from onnxopt.pruning.report import PruningReport
from onnxopt.pruning.running import PruneResult, prune

__all__ = ["PruneResult", "PruningReport", "Vocabulary", "prune"]
