"""A form that was built and measured."""

from __future__ import annotations

import dataclasses
from collections import Counter

import onnx_ir as ir

from onnxopt.core.passes import Refusal
from onnxopt.quantizing.forms import Form
from onnxopt.quantizing.report import Candidate
from onnxopt.runtime.measuring.benchmark import Ratio
from onnxopt.runtime.parity.deviation import Deviation


@dataclasses.dataclass(eq=False)
class Tried:
    """A form that was built.

    Attributes:
        form: The form.
        model: The quantized model, as long as it can still be chosen.
        rewrites: What its passes did.
        refusals: What they left in float.
        deviation: How far its outputs are from the reference; None if it does not run.
        score: By the metric of the user's; None without one.
        doubt: Standard error of the score's difference from the float model's.
        ratio: Its speed against float.
        excluded: Nodes that were given back to float.
        verdict: Why it was not chosen.
    """

    form: Form
    model: ir.Model | None
    rewrites: Counter[str] = dataclasses.field(default_factory=Counter)
    refusals: list[Refusal] = dataclasses.field(default_factory=list)
    deviation: Deviation | None = None
    score: float | None = None
    doubt: float = 0.0
    ratio: Ratio | None = None
    excluded: tuple[str, ...] = ()
    verdict: str = ""

    @property
    def speed(self) -> float:
        """How many times as fast as float; 0 if not timed."""
        return 0.0 if self.ratio is None else self.ratio.median

    @property
    def is_faster(self) -> bool:
        """True if it is proven to be faster than float."""
        return self.ratio is not None and self.ratio.verdict == "faster"

    @property
    def nodes(self) -> int:
        """Number of nodes that were quantized."""
        return self.rewrites.total()

    def drop(self, verdict: str) -> None:
        """Takes the form out of the choice, and its model out of memory."""
        self.verdict, self.model = verdict, None

    def as_candidate(self) -> Candidate:
        """For the report."""
        return Candidate(
            str(self.form),
            self.nodes,
            None if self.deviation is None else self.deviation.error,
            None if self.deviation is None else self.deviation.cosine,
            None if self.ratio is None else self.ratio.median,
            None if self.ratio is None else (self.ratio.low, self.ratio.high),
            self.excluded,
            self.verdict,
            self.score,
        )
