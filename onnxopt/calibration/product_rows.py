"""Rows of activations that products multiply their weights with, a bounded number of each.

Every sample gives the same number of rows, drawn with a seed. Products are taken in chunks whose
rows fit the memory; the data is run once for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from onnxopt.calibration.collecting import DEFAULT_MEMORY
from onnxopt.calibration.data import CalibrationData
from onnxopt.calibration.runs import largest_sample, run_samples
from onnxopt.graph.products import Product
from onnxopt.runtime.diagnosis.probing import Probe, chunks

# Twice as many rows as a weight is long say enough of how its inputs go together.
_ROWS_PER_LENGTH = 2
_FEWEST, _MOST = 512, 4096
_FLOAT = 4


def product_rows(
    probe: Probe,
    products: Sequence[Product],
    data: CalibrationData,
    samples: Sequence[int],
    *,
    max_memory: int = DEFAULT_MEMORY,
) -> Iterator[tuple[Product, NDArray[np.float32]]]:
    """Runs a model over data and yields the rows of its products, [groups, rows, K].

    Products are left out whose input the main graph does not compute, is ever NaN or infinite, or
    has no rows.

    Args:
        probe: The float model.
        products: Nodes of its main graph.
        data: What to run on.
        samples: Indexes of the input sets to use.
        max_memory: Bytes for rows and values, beyond the model itself.

    Raises:
        InvalidInputError: The model does not run on the data.
    """
    fed = {value.name for value in probe.model.graph.inputs}
    known = [p for p in products if p.data.name in probe.values or p.data.name in fed]
    computed = {p.data.name or "" for p in known} - fed
    sizes = probe.sizes(list(computed), data[largest_sample(data, samples)].feeds)
    by_name = {str(index): one for index, one in enumerate(known)}
    needs = {
        key: _FLOAT * _wanted(one) * one.groups * one.length + 2 * sizes.get(one.data.name or "", 0)
        for key, one in by_name.items()
    }
    for part in chunks(list(by_name), needs, max_memory):
        found: dict[str, list[NDArray[np.float32]]] = {key: [] for key in part}
        names = {by_name[key].data.name or "" for key in part}
        rng = np.random.default_rng(0)
        for _, _, values in run_samples(probe, sorted(names - fed), data, samples):
            for key in list(found):
                product = by_name[key]
                array = np.asarray(values[product.data.name or ""], np.float32)
                rows = product.rows(array, -(-_wanted(product) // len(samples)), rng)
                if np.isfinite(rows).all():
                    found[key].append(rows)
                else:
                    del found[key]
        for key in list(found):
            rows = np.concatenate(found.pop(key), axis=1)
            if rows.shape[1]:
                yield by_name[key], rows


def _wanted(product: Product) -> int:
    return int(np.clip(_ROWS_PER_LENGTH * product.length, _FEWEST, _MOST))
