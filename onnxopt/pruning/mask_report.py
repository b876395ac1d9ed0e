"""What a masking came to, as data, text and JSON."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

from onnxopt.core.passes import Refusal
from onnxopt.core.report import Report
from onnxopt.runtime.measuring.ratio import Ratio
from onnxopt.runtime.parity.deviation import Deviation

_MOST_LINES = 12
NO_FASTER = (
    "ONNX Runtime computes with zeros as with any other number: a mask makes the compressed file "
    "smaller and serves runtimes with sparse kernels; for speed remove units (prune without --mask)"
)


@dataclasses.dataclass(frozen=True)
class MaskedWeight:
    """What became of one weight.

    Attributes:
        node: The node that reads it.
        shape: Of the weight.
        measure: What its zeros were chosen by.
        zeros: Share of its numbers that are zero.
        error: Mean square error of its product, relative, on held-out samples; where there are
            none, or the input was not observed, for inputs that are all alike.
        observed: True if the error comes from samples.
        bytes: Of the weight.
        compressed: Bytes of it as zlib packs them, before and after.
    """

    node: str
    shape: tuple[int, ...]
    measure: str
    zeros: float
    error: float
    observed: bool
    bytes: int
    compressed: tuple[int, int]


@dataclasses.dataclass(kw_only=True)
class MaskReport:
    """The record of one `mask_weights` run.

    Attributes:
        source: The input file; "" for a model in memory.
        output: The file written; "" if none.
        pattern: "unstructured" or "2:4".
        sparsity: What was asked for of every weight.
        weights: What became of each.
        refusals: Weights left alone, with the reason.
        compressed: Bytes of all weights of the model as zlib packs them, before and after.
        bytes: Of all weights, before and after.
        error: Difference of the result from the model before.
        speed: How many times as fast the result is.
        samples: Input sets that the choice comes from; 0 without data.
        measured: Input sets that errors come from.
        notes: What the user should know.
        preparation: What `optimize` did first.
        seconds: Wall time by phase.
    """

    source: str = ""
    output: str = ""
    pattern: str = ""
    sparsity: float = 0.0
    weights: list[MaskedWeight] = dataclasses.field(default_factory=list)
    refusals: list[Refusal] = dataclasses.field(default_factory=list)
    compressed: tuple[int, int] = (0, 0)
    bytes: int = 0
    error: Deviation | None = None
    speed: Ratio | None = None
    samples: int = 0
    measured: int = 0
    notes: list[str] = dataclasses.field(default_factory=list)
    preparation: Report | None = None
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def zeros(self) -> float:
        """Share of the bytes of masked weights that are zeros."""
        total = sum(one.bytes for one in self.weights)
        return sum(one.zeros * one.bytes for one in self.weights) / max(1, total)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        data = dataclasses.asdict(dataclasses.replace(self, preparation=None))
        return data | {
            "zeros": self.zeros,
            "preparation": None if self.preparation is None else self.preparation.to_dict(),
        }

    def to_text(self, *, verbose: bool = False) -> str:
        """For people."""
        masked = sum(one.bytes for one in self.weights) / max(1, self.bytes)
        before, after = self.compressed
        lines = [
            f"{self.source or 'model'}: {self.pattern} mask: zeros are {self.zeros:.1%} of "
            f"{len(self.weights)} weights, which are {masked:.1%} of all bytes",
            f"compressed (zlib): {before:,} -> {after:,} bytes "
            f"({after / max(1, before) - 1:+.1%}); not compressed {self.bytes:,} as before",
        ]
        if self.speed is not None:
            lines.append(f"a run: {self.speed} as fast. {NO_FASTER}")
        if self.error is not None:
            broken = f"; {self.error.broken}" if self.error.broken else ""
            lines.append(
                f"error of the outputs {self.error.rms:.2%} (root mean square), cosine "
                f"{self.error.cosine:.4f}{broken}"
            )
        lines += self._weights(verbose=verbose)
        if verbose:
            lines += [f"  left alone: {one.node}: {one.reason}" for one in self.refusals]
        else:
            reasons = Counter(one.reason for one in self.refusals)
            lines += [f"  left alone: {count} x {reason}" for reason, count in reasons.items()]
        lines += [f"note: {note}" for note in self.notes]
        if self.output:
            lines.append(f"written: {self.output}")
        return "\n".join(lines)

    def _weights(self, *, verbose: bool) -> list[str]:
        ordered = self.weights
        if not verbose:
            ordered = sorted(self.weights, key=lambda one: -one.error)[:_MOST_LINES]
        lines = ["zeros  mean square error of product  compressed  weight"]
        for one in ordered:
            before, after = one.compressed
            how = one.measure if one.observed else f"{one.measure}, inputs not observed"
            lines.append(
                f"{one.zeros:>5.1%}  {one.error:>28.2%}  {after / max(1, before):>10.1%}  "
                f"{one.node} {list(one.shape)} by {how}"
            )
        if len(ordered) < len(self.weights):
            lines.append(
                f"and {len(self.weights) - len(ordered)} with smaller errors (-v lists all)"
            )
        return lines
