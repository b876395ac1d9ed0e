"""Structured pruning: units are removed from the graph, which becomes smaller and faster."""

from __future__ import annotations

from onnxopt.passes.pruning.dead_units import RemoveDeadUnits
from onnxopt.passes.pruning.units import PruneUnits

__all__ = ["PruneUnits", "RemoveDeadUnits"]
