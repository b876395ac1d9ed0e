"""What a pruning came to, as data, text and JSON."""

from __future__ import annotations

import dataclasses
from typing import Any

from onnxopt.core.report import Report
from onnxopt.pruning.candidates import Size
from onnxopt.pruning.fitting import Repair
from onnxopt.runtime.measuring.ratio import Ratio
from onnxopt.runtime.parity.deviation import Deviation

_MOST_LINES = 12


@dataclasses.dataclass(frozen=True)
class GroupEntry:
    """A pruning group.

    Attributes:
        name: After its first weight.
        kind: "channel", "head", "neuron" or "feature".
        units: How many units it had.
        kept: How many it has.
        importance: What the order of its units came from; "" if it was left alone.
        costs: What the removal of each unit costs, in the order in which they would go. By
            "activation" and "hessian" a share of the energy of the consumers' outputs (times what
            their residual branch adds to its stream), by "l1", "l2" and "random" a share of the
            group, by "taylor" a squared change of the outputs relative to their variance.
        reason: Why it was left alone; "" if it was not.
    """

    name: str
    kind: str
    units: int
    kept: int
    importance: str = ""
    costs: tuple[float, ...] = ()
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class BlockEntry:
    """A residual block, or a layer of several.

    Attributes:
        name: That of its first Conv, Gemm or MatMul.
        kind: "block" or "layer".
        parameters: Numbers in its weights.
        cost: What is missing without it, as a share of what its end holds.
        removed: Whether it is gone.
        reason: Why it could not go; "" if it could.
    """

    name: str
    kind: str
    parameters: int = 0
    cost: float = 0.0
    removed: bool = False
    reason: str = ""


@dataclasses.dataclass(kw_only=True)
class PruningReport:
    """The record of one `prune` run.

    Attributes:
        source: The input file; "" for a model in memory.
        output: The file written; "" if none.
        goal: What was asked for, in words.
        reached: What was reached, in the same measure, as the share that is left.
        met: Whether that is what was asked for.
        groups: All groups.
        blocks: Residual blocks or layers, where they were to be removed.
        pinned: Axes of weights that cannot be pruned, with the reason.
        repairs: What became of the weights behind what was removed.
        sizes: Free dimensions that operations are counted with, by name.
        before: Cost of the model that was pruned, after its cleanup.
        after: Cost of the result.
        speed: How many times as fast the result is; None if it was not timed.
        milliseconds: Of a run before and after; None if not timed.
        unrepaired: Difference from the model before, without repair; None if not measured.
        error: Difference of the result; None if not measured.
        samples: Input sets that importance and repair come from.
        measured: Input sets that errors come from.
        notes: What the user should know.
        preparation: What `optimize` did first.
        seconds: Wall time by phase.
    """

    source: str = ""
    output: str = ""
    goal: str = ""
    reached: float = 1.0
    met: bool = True
    groups: list[GroupEntry] = dataclasses.field(default_factory=list)
    blocks: list[BlockEntry] = dataclasses.field(default_factory=list)
    pinned: list[tuple[str, int, str]] = dataclasses.field(default_factory=list)
    repairs: list[Repair] = dataclasses.field(default_factory=list)
    sizes: dict[str, int] = dataclasses.field(default_factory=dict)
    before: Size = dataclasses.field(default_factory=lambda: Size(0, 0, 0))
    after: Size = dataclasses.field(default_factory=lambda: Size(0, 0, 0))
    speed: Ratio | None = None
    milliseconds: tuple[float, float] | None = None
    unrepaired: Deviation | None = None
    error: Deviation | None = None
    samples: int = 0
    measured: int = 0
    notes: list[str] = dataclasses.field(default_factory=list)
    preparation: Report | None = None
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        data = dataclasses.asdict(dataclasses.replace(self, preparation=None))
        return data | {
            "preparation": None if self.preparation is None else self.preparation.to_dict()
        }

    def to_text(self, *, verbose: bool = False) -> str:
        """For people."""
        lines = [f"{self.source or 'model'}: {self.goal}: {self.reached:.1%} is left"]
        lines += [
            _change("parameters", self.before.parameters, self.after.parameters),
            _change(f"operations{self._sized()}", self.before.flops, self.after.flops),
            _change("bytes", self.before.bytes, self.after.bytes),
        ]
        if self.speed is not None and self.milliseconds is not None:
            one, other = self.milliseconds
            lines.append(f"a run: {one:.3g} -> {other:.3g} ms, {self.speed} as fast")
        for name, found in (("without repair", self.unrepaired), ("as written", self.error)):
            if found is not None:
                lines.append(
                    f"{name}: error {found.rms:.2%} (root mean square), cosine {found.cosine:.4f}"
                    + (f"; {found.broken}" if found.broken else "")
                )
        lines += self._blocks(verbose=verbose)
        lines += self._groups(verbose=verbose)
        lines += self._repairs(verbose=verbose)
        if verbose:
            lines += [f"  pinned: {name} axis {axis}: {why}" for name, axis, why in self.pinned]
        elif self.pinned:
            lines.append(f"{len(self.pinned)} axes of weights cannot be pruned (-v lists them)")
        lines += [f"note: {note}" for note in self.notes]
        if self.output:
            lines.append(f"written: {self.output}")
        return "\n".join(lines)

    def _sized(self) -> str:
        """What a run is, where that is free."""
        sizes = ", ".join(f"{name} {size}" for name, size in self.sizes.items())
        return f" of a run with {sizes}" if sizes else ""

    def _blocks(self, *, verbose: bool) -> list[str]:
        if not self.blocks:
            return []
        removed = [entry for entry in self.blocks if entry.removed]
        lines = [f"{len(removed)} of {len(self.blocks)} {self.blocks[0].kind}s are gone:"]
        for entry in self.blocks if verbose else removed:
            what = f"costs {entry.cost:.2%}, {entry.parameters:,} parameters"
            mark = "gone" if entry.removed else "kept"
            lines.append(f"  {mark}  {entry.name}: {entry.reason or what}")
        if not verbose:
            reasons = [f"{e.name}: {e.reason}" for e in self.blocks if e.reason]
            lines += [f"  has to stay: {reason}" for reason in reasons[:_MOST_LINES]]
        return lines

    def _groups(self, *, verbose: bool) -> list[str]:
        changed = [entry for entry in self.groups if entry.kept < entry.units]
        lines = [f"{len(changed)} of {len(self.groups)} groups became narrower:"]
        shown = self.groups if verbose else changed[:_MOST_LINES]
        for entry in shown:
            why = f"  {entry.reason}" if entry.reason else ""
            lines.append(f"  {entry.units:>6} -> {entry.kept:<6} {entry.kind:<8} {entry.name}{why}")
        if len(shown) < len(changed):
            lines.append(f"  and {len(changed) - len(shown)} more (-v lists all)")
        if not verbose:
            reasons = {e.reason for e in self.groups if e.reason}
            lines += [f"  left alone: {reason}" for reason in sorted(reasons)[:_MOST_LINES]]
        return lines

    def _repairs(self, *, verbose: bool) -> list[str]:
        if not self.repairs:
            return []
        fitted = [one for one in self.repairs if not one.reason]
        refused = [one for one in self.repairs if one.reason][:_MOST_LINES]
        lines = []
        if fitted:
            before = sum(one.before for one in fitted) / len(fitted)
            after = sum(one.after for one in fitted) / len(fitted)
            lines.append(
                f"{len(fitted)} weights re-fitted: mean square error of their outputs "
                f"{before:.2%} -> {after:.2%} on held-out samples"
            )
        if verbose:
            lines += [
                f"  {one.node}: {one.reason or f'{one.before:.2%} -> {one.after:.2%}'}"
                for one in self.repairs
            ]
        else:
            lines += [f"  not re-fitted: {one.node}: {one.reason}" for one in refused]
        return lines


def _change(name: str, before: int, after: int) -> str:
    share = f" ({after / before - 1:+.1%})" if before else ""
    return f"{name}: {before:,} -> {after:,}{share}"
