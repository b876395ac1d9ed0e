"""Pruning: units are removed, and graphs become smaller and faster; or weights become zero."""

from __future__ import annotations

from onnxopt.passes.pruning.dead_units import RemoveDeadUnits
from onnxopt.passes.pruning.masks import MaskWeights
from onnxopt.passes.pruning.units import PruneUnits

__all__ = ["MaskWeights", "PruneUnits", "RemoveDeadUnits"]
