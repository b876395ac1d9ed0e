"""What ONNX Runtime's own optimizers make of a model on load, and what else it could be loaded as.

Its rewrites compete with those of onnxopt, and fusing more is not faster as such. What pays depends
on the sizes, so that it is measured for each model (`benchmarks/session_options.py` does so for all
optimizers): levels, and optimizers that are known to lose somewhere and that change this model.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx_ir as ir

from onnxopt.graph.cost import weight_bytes
from onnxopt.graph.loading import load_model
from onnxopt.runtime.bundles.tuning import Tuning, tune_session
from onnxopt.runtime.session import Feeds
from onnxopt.runtime.session_settings import SessionSettings

# Fused operators whose kernels are slower than their parts for some sizes (see `onnxopt.kernels`),
# and the blocked layout, which pays only where few nodes leave it.
AT_RISK = (
    "SkipLayerNormFusion", "BiasGeluFusion", "AttentionFusion", "EmbedLayerNormFusion",
    "MatmulTransposeFusion", "NchwcTransformer",
)  # fmt: skip
# Three sessions of each candidate hold their weights at the same time.
_LARGE_BYTES = 200_000_000


def search_load_options(
    model: ir.Model, feeds: Feeds, base: SessionSettings, limit: float
) -> Tuning:
    """The level and the disabled optimizers with which a model is proven faster, if any are.

    Args:
        model: The model.
        feeds: What it is timed on.
        base: Provider and threads; ONNX Runtime's defaults for the rest.
        limit: Seconds after which nothing more is tried.
    """
    if weight_bytes(model) > _LARGE_BYTES:
        note = "session options were not searched: sessions of so large a model do not fit together"
        return Tuning(base, None, (), (note,))
    return tune_session(model, feeds, base, changes=load_changes(model, base), limit=limit)


def load_changes(model: ir.Model, base: SessionSettings) -> Iterator[dict[str, Any]]:
    """Optimizers to leave out, each if it changes the model, then lower levels."""
    usual = operators_on_load(model, base)
    for name in AT_RISK:
        without = SessionSettings(
            provider=base.provider, threads=base.threads, disabled_optimizers=(name,)
        )
        if operators_on_load(model, without) != usual:
            yield {"disabled_optimizers": (name,)}
    for level in ("extended", "basic"):
        yield {"optimization": level}


def operators_on_load(model: ir.Model, settings: SessionSettings) -> Counter[str]:
    """Nodes by operator after ONNX Runtime has rewritten the model.

    Raises:
        CannotRunError: ONNX Runtime refuses the model.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "rewritten.onnx")
        settings.open(model, optimized_path=target)
        return Counter(node.op_type for node in load_model(target).graph)
