"""What the user asks of `prune`, checked."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal, get_args

from onnxopt.core.errors import InvalidInputError
from onnxopt.targets import Target

Importance = Literal["auto", "l1", "l2", "random", "activation", "hessian", "taylor"]
Scope = Literal["layer", "global"]
Kind = Literal["channel", "head", "neuron", "feature", "block", "layer"]
# Kinds that go whole.
WHOLE = ("block", "layer")
Goal = Literal["sparsity", "flops", "size", "latency"]
GOALS = ("sparsity", "target_flops", "target_size", "target_latency")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PruneOptions:
    """The choices of one run.

    Attributes:
        sparsity: Share of the units to remove, from 0 to below 1.
        target_flops: Operations to keep, as a share of those of the model; likewise below.
        target_size: Bytes of weights to keep.
        target_latency: Time of a run to keep, measured.
        scope: "layer" for the same share of every group, "global" for one ranking of all.
        importance: The measure of units; "auto" is "hessian" with data, else "l2".
        multiple: Widths are rounded to multiples of it; None for what the target's kernels like,
            and finer in small groups.
        kinds: Prune only these kinds; by default all groups, but no whole blocks or layers.
        widths: Also prune what a normalization averages over.
        exclude: Globs of names of nodes whose weights keep their shapes.
        repair: Re-fit weights on the calibration data.
        seed: For "random".
        max_error: The largest error of an output (root mean square, relative) that is accepted.
        target: Where the result will run.
        budget: About how many seconds measuring latencies may take.
    """

    sparsity: float | None = None
    target_flops: float | None = None
    target_size: float | None = None
    target_latency: float | None = None
    scope: Scope | None = None
    importance: Importance = "auto"
    multiple: int | None = None
    kinds: tuple[str, ...] = ()
    widths: bool = False
    exclude: tuple[str, ...] = ()
    repair: bool = True
    seed: int = 0
    max_error: float | None = None
    target: Target = dataclasses.field(default_factory=Target)
    budget: float = 180.0

    def __post_init__(self) -> None:
        given = [name for name in GOALS if getattr(self, name) is not None]
        if len(given) != 1:
            text = " and ".join(given) if given else "none"
            raise InvalidInputError(
                "give one of sparsity, target_flops, target_size and target_latency (--sparsity, "
                f"--target-flops, --target-size, --target-latency), not {text}"
            )
        if self.sparsity is not None and not 0 <= self.sparsity < 1:
            raise InvalidInputError(f"sparsity is at least 0 and below 1, not {self.sparsity}")
        for name in GOALS[1:]:
            share = getattr(self, name)
            if share is not None and not 0 < share <= 1:
                raise InvalidInputError(
                    f"{name} is the share to keep, over 0 and at most 1, not {share}"
                )
        for name, kind in (("importance", Importance), ("scope", Scope)):
            value = getattr(self, name)
            if value is not None and value not in get_args(kind):
                raise InvalidInputError(
                    f"{name} is one of {', '.join(get_args(kind))}, not {value!r}"
                )
        strange = set(self.kinds) - set(get_args(Kind))
        if strange:
            raise InvalidInputError(
                f"kinds are some of {', '.join(get_args(Kind))}, not {min(strange)!r}"
            )
        whole = [kind for kind in self.kinds if kind in WHOLE]
        if len(whole) > 1:
            raise InvalidInputError("kinds are block or layer, not both: layers are made of blocks")
        if whole and self.importance not in ("auto", "activation", "hessian"):
            raise InvalidInputError(
                f"blocks are ranked by what they add, which {self.importance} does not measure "
                "units by: take importance hessian or activation"
            )
        if whole and len(self.kinds) > 1 and self.sparsity is not None and self.scope == "global":
            raise InvalidInputError(
                f"a sparsity over all counts units, and a {whole[0]} is none: take scope layer, or "
                "a target"
            )
        if self.multiple is not None and self.multiple < 1:
            raise InvalidInputError(f"multiple is at least 1, not {self.multiple}")
        if self.max_error is not None and not self.max_error > 0:
            raise InvalidInputError(f"the largest error is more than 0, not {self.max_error}")
        if not (self.budget > 0 and math.isfinite(self.budget)):
            raise InvalidInputError("the budget of measuring has to be more than 0 seconds")

    @property
    def goal(self) -> Goal:
        """What the amount is counted in."""
        goals: dict[str, Goal] = {
            "sparsity": "sparsity",
            "target_flops": "flops",
            "target_size": "size",
            "target_latency": "latency",
        }
        return next(goal for name, goal in goals.items() if getattr(self, name) is not None)

    @property
    def share(self) -> float:
        """What is to be kept, as a share of what there is."""
        if self.sparsity is not None:
            return 1 - self.sparsity
        found = next(getattr(self, name) for name in GOALS[1:] if getattr(self, name) is not None)
        return float(found)

    @property
    def resolved_scope(self) -> Scope:
        """The same share everywhere for a sparsity, one ranking for a target, unless given."""
        return self.scope or ("layer" if self.sparsity is not None else "global")


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Which rows of the embeddings stay.

    Attributes:
        keep: Token ids.
        unknown: The one of them that all others become.
        narrow_outputs: Let outputs over the vocabulary become as narrow.
    """

    keep: Sequence[int]
    unknown: int
    narrow_outputs: bool = False
