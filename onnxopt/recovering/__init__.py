"""`recover`: a pruned or quantized model, trained to give what the original gives."""

from __future__ import annotations

from onnxopt.recovering.report import RecoveryReport
from onnxopt.recovering.running import RecoverResult, recover

__all__ = ["RecoverResult", "RecoveryReport", "recover"]
