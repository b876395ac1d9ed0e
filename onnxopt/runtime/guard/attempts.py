"""Running a group of passes on a copy, without what is blocked and without what raises."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence, Set

import onnx_ir as ir

from onnxopt.core.errors import PassFailedError
from onnxopt.core.gate import Gate, Place
from onnxopt.core.guarding import Undone
from onnxopt.core.pipeline import AnyPass, Observer, Pipeline, Repeat
from onnxopt.core.report import PassRecord

# A rule that raises at so many nodes is left out altogether.
_RAISES_OF_A_RULE = 2


@dataclasses.dataclass(frozen=True)
class Attempt:
    """A group of passes that ran.

    Attributes:
        model: What came out.
        records: One for each run of each pass.
        taken: Where something was rewritten.
        blocked: What was left out: what was asked for, and what raised.
        raised: What raised, and what it raised.
    """

    model: ir.Model
    records: list[PassRecord]
    taken: list[Place]
    blocked: frozenset[Place]
    raised: dict[Place, str]

    @property
    def modified(self) -> bool:
        """True if some pass changed something."""
        return bool(self.taken)

    def undone(self) -> list[Undone]:
        """What raised, as entries for the report."""
        return [
            Undone(
                passes=(place.pass_,),
                rule=place.rule,
                nodes=(place.node,) if place.node else (),
                reason=f"raised {reason}",
            )
            for place, reason in self.raised.items()
        ]


def attempt(
    source: Callable[[], ir.Model],
    passes: Sequence[AnyPass | Repeat],
    blocked: Set[Place] = frozenset(),
    observers: Sequence[Observer] = (),
) -> Attempt:
    """Runs passes; one that raises is left out, and the others start again from the source.

    Args:
        source: Makes the model to start from.
        passes: What to run.
        blocked: What to leave out.
        observers: Told before and after every pass, and again when the passes start again.

    Raises:
        PassFailedError: A pass raised that cannot be left out, as one inside another pipeline.
    """
    raised: dict[Place, str] = {}
    times: Counter[tuple[str, str]] = Counter()
    while True:
        model = source()
        left_out = frozenset(blocked | raised.keys())
        gate = Gate(left_out)
        pipeline = Pipeline(passes, observers=observers, gate=gate)
        try:
            records = pipeline.call(model).records
        except PassFailedError as error:
            place = _culprit(error, gate, times)
            names = {Place(str_) for str_ in error.passes}
            if place in left_out or Place(place.pass_) not in names:
                raise
            raised = {one: why for one, why in raised.items() if not _covers(place, one)}
            raised[place] = error.reason
            continue
        return Attempt(model, records, gate.taken, left_out, raised)


def _culprit(error: PassFailedError, gate: Gate, times: Counter[tuple[str, str]]) -> Place:
    if gate.attempting is None:
        return Place(error.passes[0] if error.passes else "")
    pass_, rule, node = gate.attempting
    times[pass_, rule] += 1
    return Place(pass_, rule, node if times[pass_, rule] < _RAISES_OF_A_RULE else "")


def _covers(place: Place, other: Place) -> bool:
    return (place.pass_, place.rule) == (other.pass_, other.rule) and not place.node
