"""Second moments of what weights multiply, on samples that fit and on others that judge.

Conv, Gemm and MatMul alike: rows of a Conv are patches under its kernel. Products with one input
share their moments. A few inputs are observed at a time; no activation outlives its run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxopt.calibration.data import CalibrationData
from onnxopt.calibration.runs import largest_sample, run_samples
from onnxopt.calibration.second_moments import Moments
from onnxopt.core.errors import InvalidInputError
from onnxopt.graph.linear_maps import Floats, LinearMap
from onnxopt.pruning.fitting import rows_wanted
from onnxopt.runtime.diagnosis.probing import Probe, chunks


class InputMoments:
    """Of the input of some products, by group of their weights: `[groups, K, K]`.

    Attributes:
        sites: The products.
        fitting: Moments on the samples to fit on.
        judging: On the others.
    """

    def __init__(self, sites: Sequence[LinearMap]) -> None:
        self.sites = sites
        shape = (sites[0].group, sites[0].inputs, sites[0].inputs)
        self.fitting, self.judging = (Moments(np.zeros(shape)) for _ in range(2))

    @property
    def observed(self) -> list[str]:
        """Names of values that give the rows; the output of a Conv says where its kernel was."""
        site = self.sites[0]
        values = (site.source, site.output) if site.is_conv else (site.source,)
        return [value.name or "" for value in values]

    def add(
        self, values: Mapping[str, Floats], most: int, seed: Sequence[int], *, judging: bool
    ) -> bool:
        """Adds up to `most` rows of a run; False if they are not all finite."""
        arrays = [np.asarray(values[name], np.float32) for name in self.observed]
        rows, _ = self.sites[0].rows(arrays[0], arrays[-1], most, np.random.default_rng(seed))
        grouped = np.ascontiguousarray(rows.transpose(1, 0, 2))
        product = np.swapaxes(grouped, 1, 2) @ grouped
        moments = self.judging if judging else self.fitting
        moments.matrix += product
        moments.rows += grouped.shape[1]
        return bool(np.isfinite(product).all())


def input_moments(
    model: ir.Model,
    sites: Sequence[LinearMap],
    data: CalibrationData,
    fitting: Sequence[int],
    judging: Sequence[int],
    *,
    max_memory: int,
) -> Iterator[InputMoments]:
    """Runs a model over data and yields the moments of the inputs of products.

    Args:
        model: The model.
        sites: Products of its main graph.
        data: What to run on.
        fitting: Indexes of the samples to fit on.
        judging: Of those to judge on.
        max_memory: Bytes for moments and values, beyond the model.

    Raises:
        InvalidInputError: The model does not run on the data, or an input is NaN or infinite on it.
    """
    probe = Probe(model)
    shared: dict[str, list[LinearMap]] = {}
    for site in sites:
        # Patches are those of one kernel.
        value = site.output if site.is_conv else site.source
        shared.setdefault(value.name or "", []).append(site)
    largest = data[largest_sample(data, fitting)].feeds
    needs = {}
    for key, (site, *_) in shared.items():
        names = [v.name for v in (site.source, site.output) if v.name in probe.values]
        needs[key] = 16 * site.group * site.inputs**2 + 3 * sum(
            probe.sizes(names, largest).values()
        )
    for part in chunks(list(shared), needs, max_memory):
        found = [InputMoments(shared[key]) for key in part]
        names = list(dict.fromkeys(name for one in found for name in one.observed))
        computed = [name for name in names if name in probe.values]
        for judged, samples in ((False, fitting), (True, judging)):
            for index, sample, values in run_samples(probe, computed, data, samples):
                for number, one in enumerate(found):
                    most = -(-rows_wanted(one.sites[0].inputs) // len(samples))
                    if not one.add(values, most, (index, number), judging=judged):
                        raise InvalidInputError(
                            f"value {one.observed[0]!r} is NaN, infinite or too large on "
                            f"calibration sample {index} ({sample.description})"
                        )
        yield from found
