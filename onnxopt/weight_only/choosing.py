"""Which bits and which block size each weight gets."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from onnxopt.graph.blocks import BITS, BlockEncoding
from onnxopt.passes.quantization.weight_only import excluded
from onnxopt.passes.quantization.weight_sites import WeightSite
from onnxopt.weight_only.block_sizes import Settings, Shape, choose_block_sizes

if TYPE_CHECKING:
    from onnxopt.weight_only.solving import Solver

Encodings = dict[WeightSite, BlockEncoding]


def choose_blocks(encodings: Encodings, accuracy_level: int, threads: int | None) -> list[str]:
    """Sets the block sizes of products to what is fast here; tables keep what they have.

    Args:
        encodings: Changed in place.
        accuracy_level: Of MatMulNBits.
        threads: What the model will run with; None for ONNX Runtime's choice.

    Returns:
        A line for each shape.
    """
    lines = []
    shapes: dict[int, dict[WeightSite, Shape]] = {}
    for site, encoding in encodings.items():
        if site.kind == "product":
            shape = (site.length, site.shape[1 - site.axis])
            shapes.setdefault(encoding.bits, {})[site] = shape
    for bits, sites in shapes.items():
        symmetric = next(encodings[site].symmetric for site in sites)
        settings = Settings(bits, symmetric, accuracy_level, threads)
        chosen = choose_block_sizes(set(sites.values()), settings)
        for site, shape in sites.items():
            encodings[site] = dataclasses.replace(encodings[site], block_size=chosen[shape][0])
        lines += [f"{bits} bits, {line}" for _, line in chosen.values()]
    return lines


def choose_bits(
    solver: Solver,
    encodings: Encodings,
    fixed: set[WeightSite],
    average_bits: float,
) -> None:
    """Gives 8 bits to the weights where they save the most error per bit, within the budget.

    Args:
        solver: Knows what rounding costs.
        encodings: Changed in place.
        fixed: Weights whose bits the user named.
        average_bits: The budget, per weight.
    """
    few, many = BITS
    costs = solver.sensitivities(BITS)
    total = sum(site.tensor.size for site in encodings)
    left = average_bits * total - sum(e.bits * s.tensor.size for s, e in encodings.items())
    gains = {
        site: (errors[few] - errors[many]) / site.tensor.size
        for site, errors in costs.items()
        if site not in fixed
    }
    for site in sorted(gains, key=lambda one: -gains[one]):
        extra = (many - few) * site.tensor.size
        if extra <= left:
            encodings[site] = dataclasses.replace(encodings[site], bits=many)
            left -= extra


def unmatched(sites: Iterable[WeightSite], patterns: Iterable[str]) -> list[str]:
    """The patterns that are no weight's."""
    names = [site.name for site in sites]
    return [one for one in patterns if not any(excluded(name, (one,)) for name in names)]


def is_named(site: WeightSite, overrides: Mapping[str, int]) -> bool:
    """True if one of the patterns is the weight's."""
    return any(excluded(site.name, (pattern,)) for pattern in overrides)


def overridden(
    site: WeightSite, encoding: BlockEncoding, overrides: Mapping[str, int]
) -> BlockEncoding:
    """The encoding with the bits of the first pattern that is the weight's."""
    for pattern, bits in overrides.items():
        if excluded(site.name, (pattern,)):
            return dataclasses.replace(encoding, bits=bits)
    return encoding
