"""Finding the part of a graph in which an error begins, without looking at every value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnxopt.runtime.diagnosis.paired_values import PairedValues
from onnxopt.runtime.diagnosis.replay import excess
from onnxopt.runtime.parity.tolerance import Tolerance

_MOST_ROUNDS = 40
_MOST_SAMPLES = 64
_TOTAL = Tolerance(1e-4, 1e-4, 1e-4)


def narrow(pairs: PairedValues, names: list[str], budget: int) -> list[str]:
    """The values above the first one that differs, few enough to be looked at together.

    Args:
        pairs: The values; those that are looked at on the way are compared there.
        names: Where to search, in the order of the graph.
        budget: Bytes that values may take at a time.
    """
    sizes = pairs.sizes(names)
    for _ in range(_MOST_ROUNDS):
        if sum(sizes[name] for name in names) <= budget:
            break
        floats = [name for name in names if pairs.is_float(name)]
        sample = _spread(floats or names, sizes, budget)
        pairs.compare(sample)
        rest = [name for name in _above_first(pairs, names, sample) if name in pairs.likes]
        if len(rest) >= len(names):
            break
        names = rest
    return names


def _above_first(pairs: PairedValues, names: list[str], sample: Sequence[str]) -> list[str]:
    seen = [name for name in sample if name in pairs.totals]
    bad = {name for name in seen if excess(pairs.totals[name], _TOTAL) > 1}
    first = next((name for name in seen if name in bad), None)
    if first is not None:  # otherwise it is behind the last of them
        above = pairs.ancestors({first}) | {first}
        names = [name for name in names if name in above]
    # Only numbers speak for what they are made from: shapes are right whatever happens.
    good = {n for n in seen if n in names and n not in bad and pairs.is_float(n)}
    gone = (pairs.ancestors(good) | good) - {first}
    return [name for name in names if name not in gone]


def _spread(names: Sequence[str], sizes: Mapping[str, int], budget: int) -> list[str]:
    """As many values, spread over the graph, as fit; small ones rather than large ones."""
    total = sum(sizes[name] for name in names)
    parts = max(2, min(len(names), _MOST_SAMPLES, 2 * total // max(budget, 1)))
    step = -(-len(names) // parts)
    chosen: list[str] = []
    taken = 0
    for start in range(0, len(names), step):
        name = min(names[start : start + step], key=lambda n: sizes[n])
        if taken + sizes[name] <= budget or not chosen:
            chosen.append(name)
            taken += sizes[name]
    return chosen
