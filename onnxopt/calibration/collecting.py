"""Running a model over data and feeding all observers at once, within a bound of memory.

Values are taken in chunks: a chunk is as many tensors as fit the memory, for which the whole data
is run once. Batches may differ in shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt.calibration.data import CalibrationData
from onnxopt.calibration.nested import NestedValues
from onnxopt.calibration.runs import largest_sample, run_samples
from onnxopt.calibration.statistics import Statistics
from onnxopt.calibration.table import CalibrationTable
from onnxopt.core.errors import InvalidInputError
from onnxopt.core.walking import subgraphs_of
from onnxopt.graph.fingerprint import fingerprint
from onnxopt.runtime.diagnosis.probing import Probe, chunks

DEFAULT_MEMORY = 1 << 30
# What an array costs besides itself while it is observed: a copy and the indexes of its bins.
_OVERHEAD = 4
# How many values a note names.
_TOLD = 3


def collect(
    model: ir.Model,
    names: Iterable[str],
    data: CalibrationData,
    *,
    samples: Sequence[int] | None = None,
    max_memory: int = DEFAULT_MEMORY,
    by_channel: Iterable[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> CalibrationTable:
    """Observes values of all graphs, graph inputs among them.

    Of values inside subgraphs only the extremes of every run are seen.

    Args:
        model: The float model.
        names: Values to observe; those that the model does not compute are left out.
        data: What to run on.
        samples: Indexes of the input sets to use; all by default.
        max_memory: Bytes for the values of one run, beyond the model itself.
        by_channel: Values of which to keep the largest magnitude per channel as well.
        progress: Told the number of runs done and the number of all.

    Raises:
        InvalidInputError: The model does not run on the data.
    """
    chosen = range(len(data)) if samples is None else samples
    table = CalibrationTable(fingerprint(model), len(chosen))
    probe = Probe(model)
    inputs = {value.name for value in model.graph.inputs}
    wanted = list(dict.fromkeys(names))
    fed = [name for name in wanted if name in inputs]
    computed = [name for name in wanted if name in probe.values]
    channelled = frozenset(by_channel)
    for name in (*fed, *computed):
        table.statistics[name] = Statistics()
    sizes = probe.sizes(computed, data[largest_sample(data, chosen)].feeds)
    parts = list(chunks(computed, sizes, max(1, max_memory // _OVERHEAD))) or [[]]
    for number, part in enumerate(parts):
        watched = (*part, *(fed if number == 0 else ()))
        _observe(probe, part, watched, data, chosen, table, channelled)
        if progress is not None:
            progress(number + 1, len(parts))
    known = {*fed, *computed}
    _observe_nested(probe.model, [n for n in wanted if n not in known], data, chosen, table)
    return table


def _observe_nested(
    model: ir.Model,
    names: Sequence[str],
    data: CalibrationData,
    samples: Sequence[int],
    table: CalibrationTable,
) -> None:
    """Observes values inside subgraphs; those of branches that were never taken stay unknown.

    Where a node cannot be run so, it is found by halves, and the others are observed without it.
    """
    nodes = list(model.graph)
    pending = [[index for index, node in enumerate(nodes) if subgraphs_of(node)]]
    found: dict[str, Statistics] = {}
    unknown: set[str] = set()
    while pending:
        group = pending.pop()
        nested = NestedValues(model, names, group)
        if nested.hidden - unknown:
            some = ", ".join(sorted(nested.hidden)[:_TOLD])
            table.notes.append(f"values inside a SequenceMap have no ranges: {some}")
        unknown |= nested.hidden
        try:
            seen = _extremes(nested, data, samples) if nested.shown else []
        except InvalidInputError as error:  # such as of a loop that cannot stack
            if len(group) > 1:
                half = len(group) // 2
                pending += [group[half:], group[:half]]
                continue
            name = nodes[group[0]].name or nodes[group[0]].op_type
            table.notes.append(f"values inside {name!r} have no ranges; observing them: {error}")
            unknown |= set(nested.shown.values())
            continue
        for value, low, high in seen:
            found.setdefault(value, Statistics()).add_extremes(low, high)
    table.statistics |= {
        name: one
        for name, one in found.items()
        if name not in unknown and (one.infinite or one.low < one.high)
    }


def _extremes(
    nested: NestedValues, data: CalibrationData, samples: Sequence[int]
) -> list[tuple[str, float, float]]:
    """Name, smallest and largest element of every value in every run."""
    return [
        (name, low if np.isfinite(mean) else np.nan, high)
        for _, _, values in run_samples(Probe(nested.model), list(nested.shown), data, samples)
        for shown, name in nested.shown.items()
        for low, high, mean in [values[shown].tolist()]
    ]


def _observe(
    probe: Probe,
    part: Sequence[str],
    watched: Sequence[str],
    data: CalibrationData,
    samples: Iterable[int],
    table: CalibrationTable,
    channelled: frozenset[str],
) -> None:
    for index, one, found in run_samples(probe, part, data, samples):
        _check_finite(one.feeds, index)
        for name in watched:
            array = found.pop(name)
            if getattr(array, "dtype", None) is not None and array.dtype.kind in "fV":
                table.statistics[name].add(array, by_channel=name in channelled)


def _check_finite(feeds: Mapping[str, Any], index: int) -> None:
    for name, array in feeds.items():
        if getattr(array, "dtype", np.dtype(bool)).kind == "f" and not np.isfinite(array).all():
            raise InvalidInputError(
                f"calibration sample {index}: the data for input {name!r} holds NaN or infinity"
            )
