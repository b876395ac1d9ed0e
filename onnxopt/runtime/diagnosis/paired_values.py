"""The values that two models have in common, what lies between them, and how far they are apart."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import onnx_ir as ir

from onnxopt.runtime.diagnosis.pairing import pair_values
from onnxopt.runtime.diagnosis.probing import Arrays, Probe
from onnxopt.runtime.diagnosis.regions import Region, find_region
from onnxopt.runtime.diagnosis.replay import difference
from onnxopt.runtime.parity.difference import Difference
from onnxopt.runtime.session import Feeds


class PairedValues:
    """Pairs of values, by their name in the second model.

    Args:
        original: The reference.
        rewritten: What became of it.
        feeds: Graph inputs to run both with.

    Attributes:
        one: The reference.
        other: What became of it.
        feeds: Graph inputs.
        likes: Name of a value of the second model to the name of its like in the first.
        totals: How far values are apart, as far as they were compared.
    """

    def __init__(self, original: ir.Model, rewritten: ir.Model, feeds: Feeds) -> None:
        self.one, self.other = Probe(original), Probe(rewritten)
        self.feeds = dict(feeds)
        pairs = pair_values(self.one.model, self.other.model)
        self.likes = {
            name: like
            for name, like in pairs.items()
            if name in self.other.values and like in self.one.values
        }
        self.totals: dict[str, Difference] = {}

    def forget(self, name: str) -> None:
        """Takes back that a value has a like."""
        del self.likes[name]

    def region(self, name: str) -> Region:
        """What the second model computes a value from, back to other pairs."""
        return find_region(self.other.values[name], self.likes)

    def ancestors(self, names: Collection[str]) -> set[str]:
        """Paired values that the named ones are made from."""
        seen: set[str] = set()
        pending = list(names)
        while pending:
            for value in self.region(pending.pop()).frontier:
                if value.name in self.likes and value.name not in seen:
                    seen.add(value.name)
                    pending.append(value.name)
        return seen

    def is_float(self, name: str) -> bool:
        """True if the value holds numbers that errors show in."""
        dtype = self.other.values[name].dtype
        return dtype is not None and dtype.is_floating_point()

    def sizes(self, names: Sequence[str]) -> dict[str, int]:
        """Bytes that values take in the larger of both models."""
        one = self.one.sizes([self.likes[name] for name in names], self.feeds)
        other = self.other.sizes(names, self.feeds)
        return {name: max(one[self.likes[name]], other[name]) for name in names}

    def compare(self, names: Sequence[str]) -> Arrays:
        """Compares values in `totals`; those that are no arrays of one shape are forgotten.

        Returns:
            The original's values under the names of the second model.

        Raises:
            CannotRunError: ONNX Runtime refuses a part of one of the models.
        """
        likes = list(dict.fromkeys(self.likes[name] for name in names))
        before = self.one.fetch(likes, self.feeds)
        originals = {name: before[self.likes[name]] for name in names}
        after = self.other.fetch(names, self.feeds)
        for name in names:
            # Sequences and maps, as of ai.onnx.ml, have no numbers of their own.
            arrays = isinstance(originals[name], np.ndarray) and isinstance(after[name], np.ndarray)
            if not arrays or originals[name].shape != after[name].shape:
                self.forget(name)
                del originals[name]
            else:
                self.totals[name] = difference(originals[name], after.pop(name))
        return originals
