"""What the user asks of `mask_weights`, checked."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

from onnxopt.core.errors import InvalidInputError
from onnxopt.graph.sparsity import Pattern
from onnxopt.passes.pruning.masks import check_sparsity
from onnxopt.targets import Target

Importance = Literal["auto", "l1", "l2", "random", "activation", "hessian"]
_HALF = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskOptions:
    """The choices of one run.

    Attributes:
        pattern: "unstructured" or "2:4".
        sparsity: Share of every weight, over 0 and below 1; half of it in the pattern 2:4.
        importance: The measure of weights: "l1" and "l2" are the magnitude, "activation" is
            Wanda's, "hessian" SparseGPT's; "auto" is "hessian" with data, else the magnitude.
        repair: Let the weights that stay make up for what went (with "hessian").
        exclude: Globs of names of nodes whose weights stay as they are.
        seed: For "random".
        max_error: The largest error of an output (root mean square, relative) that is accepted.
        target: Where the result will run.
    """

    pattern: Pattern = "unstructured"
    sparsity: float | None = None
    importance: Importance = "auto"
    repair: bool = True
    exclude: tuple[str, ...] = ()
    seed: int = 0
    max_error: float | None = None
    target: Target = dataclasses.field(default_factory=Target)

    def __post_init__(self) -> None:
        for name, kind in (("pattern", Pattern), ("importance", Importance)):
            if getattr(self, name) not in get_args(kind):
                raise InvalidInputError(
                    f"{name} is one of {', '.join(get_args(kind))}, not {getattr(self, name)!r}"
                )
        if self.sparsity is None and self.pattern == "unstructured":
            raise InvalidInputError("an unstructured mask needs a sparsity (--sparsity 0.5)")
        if self.max_error is not None and not self.max_error > 0:
            raise InvalidInputError(f"the largest error is more than 0, not {self.max_error}")
        check_sparsity(self.share, self.pattern)

    @property
    def share(self) -> float:
        """Of each weight that goes."""
        return _HALF if self.sparsity is None else self.sparsity

    def measure(self, *, has_data: bool) -> Importance:
        """The importance that "auto" stands for.

        Raises:
            InvalidInputError: The one asked for needs data.
        """
        if self.importance == "auto":
            return "hessian" if has_data else "l2"
        if self.importance in ("activation", "hessian") and not has_data:
            raise InvalidInputError(
                f"importance {self.importance} needs data: --calibration DATA, or l1, l2 or random"
            )
        return self.importance
