"""`CalibrationTable`: what a model's tensors looked like on data, as plain data on disk.

Saved as .npz, or as .json to read and edit. It belongs to one model with its weights, which its key
is a hash of.
"""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxopt.calibration.histogram import MOST_BINS, Histogram
from onnxopt.calibration.observers import DEFAULT_PERCENTILE, Method, Range, choose_range
from onnxopt.calibration.statistics import Statistics
from onnxopt.core.errors import InvalidInputError, SaveError
from onnxopt.graph.quantization import Encoding

_VERSION = 1
_SCALARS = ("low", "high", "mean_low", "mean_high", "batches", "infinite")
_BROKEN = (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, AttributeError)


@dataclasses.dataclass
class CalibrationTable:
    """Statistics of the values of one model.

    Attributes:
        key: Hash of the model (see `graph.fingerprint`).
        samples: Number of input sets that it was made from.
        statistics: By value name.
        notes: What could not be observed; not saved.
    """

    key: str
    samples: int = 0
    statistics: dict[str, Statistics] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)

    def ranges(
        self,
        method: Method,
        encoding: Encoding,
        *,
        names: Iterable[str] | None = None,
        percentile: float = DEFAULT_PERCENTILE,
    ) -> dict[str, Range]:
        """A range for every value; those that were ever NaN or infinite, or never seen, have none.

        Args:
            method: How to choose.
            encoding: The integers that it is for.
            names: Only these.
            percentile: For the method of that name.
        """
        wanted = self.statistics if names is None else names
        return {
            name: choose_range(found, method, encoding, percentile=percentile)
            for name in wanted
            if (found := self.statistics.get(name)) is not None
            and found.batches
            and not found.infinite
        }

    def means(self) -> dict[str, NDArray[np.float32]]:
        """The mean of every channel, of the values that have channels."""
        return {n: found.means for n, found in self.statistics.items() if found.means is not None}

    def require_key(self, key: str, source: str) -> None:
        """Checks that the table belongs to a model.

        Raises:
            InvalidInputError: It does not.
        """
        if self.key != key:
            raise InvalidInputError(
                f"{source}: the calibration table was made for another model, or for the same one "
                "with other weights or prepared by another version; calibrate again (--calibration)"
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the table; as text if the path ends in .json.

        Raises:
            SaveError: It cannot be written.
        """
        target = Path(path)
        partial = target.with_name(f".{target.name}.partial")
        try:
            with partial.open("wb") as file:
                if target.suffix == ".json":
                    file.write(json.dumps(self._as_data()).encode())
                else:
                    np.savez_compressed(file, allow_pickle=False, **self._as_arrays())
            partial.replace(target)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise SaveError(
                f"{target}: cannot write the calibration table: {error.strerror}"
            ) from error

    def _as_data(self) -> dict[str, Any]:
        tensors = {
            name: {
                **{field: getattr(found, field) for field in _SCALARS},
                "exponent": found.histogram.exponent,
                "start": found.histogram.start,
                "counts": found.histogram.counts.tolist(),
                "channels": None if found.channels is None else found.channels.tolist(),
                "means": None if found.means is None else found.means.tolist(),
            }
            for name, found in self.statistics.items()
        }
        return {"version": _VERSION, "key": self.key, "samples": self.samples, "tensors": tensors}

    def _as_arrays(self) -> dict[str, Any]:
        # Names of values may hold anything, also "/", which would be folders in the archive.
        data = self._as_data()
        arrays: dict[str, Any] = {}
        for index, (name, found) in enumerate(self.statistics.items()):
            arrays[f"counts_{index}"] = found.histogram.counts
            data["tensors"][name]["counts"] = index
            for part in ("channels", "means"):
                array = getattr(found, part)
                if array is not None:
                    arrays[f"{part}_{index}"] = array
                    data["tensors"][name][part] = index
        return {"table": np.frombuffer(json.dumps(data).encode(), np.uint8), **arrays}


def load_table(path: str | os.PathLike[str]) -> CalibrationTable:
    """Reads a table.

    Raises:
        InvalidInputError: There is none, or it is damaged.
    """
    source = Path(path)
    try:
        if source.suffix == ".json":
            return _from_data(json.loads(source.read_text(encoding="utf-8")), {})
        with np.load(source, allow_pickle=False) as arrays:
            return _from_data(json.loads(arrays["table"].tobytes()), arrays)
    except OSError as error:
        raise InvalidInputError(
            f"{source}: cannot read the calibration table: {error.strerror or error}"
        ) from error
    except _BROKEN as error:
        raise InvalidInputError(
            f"{source} is no calibration table, or is damaged; calibrate again (--calibration)"
        ) from error


def _from_data(data: Mapping[str, Any], arrays: Mapping[str, Any]) -> CalibrationTable:
    if data["version"] != _VERSION:
        raise ValueError("another version")
    table = CalibrationTable(str(data["key"]), int(data["samples"]))
    for name, entry in data["tensors"].items():
        counts = entry["counts"]
        counts = arrays[f"counts_{counts}"] if isinstance(counts, int) else counts
        counts = np.asarray(counts, np.int64)
        if counts.ndim != 1 or len(counts) > MOST_BINS or (counts < 0).any():
            raise ValueError("no histogram")
        table.statistics[name] = Statistics(
            **{field: type(getattr(Statistics, field))(entry[field]) for field in _SCALARS},
            histogram=Histogram(int(entry["exponent"]), int(entry["start"]), counts),
            channels=_channels(entry, "channels", arrays),
            means=_channels(entry, "means", arrays),
        )
    return table


def _channels(
    entry: Mapping[str, Any], part: str, arrays: Mapping[str, Any]
) -> NDArray[np.float32] | None:
    found = entry[part]
    if isinstance(found, int):
        found = arrays[f"{part}_{found}"]
    return None if found is None else np.asarray(found, np.float32)
