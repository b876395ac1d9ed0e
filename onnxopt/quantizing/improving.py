"""Trying repairs on a form one after the other, and keeping those that lower the error."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from onnxopt.quantizing.forms import Form
from onnxopt.quantizing.report import Errors, RepairEntry
from onnxopt.quantizing.tried import Tried

# A repair that costs time is kept only where it costs no more than this, or is needed.
_LEAST_SPEED = 0.97
# One that lowers the error by less is not worth a change of the model.
_LEAST_GAIN = 0.99


class Improving:
    """The repairs of one search.

    Args:
        repairs: What to try, in order.
        attempt: Builds a form and measures its error; None if there is nothing to build.
        time: Times a form against float.
        within: True for a form within the budget of error.
        corrects: Bias correction may be switched on and off again.

    Attributes:
        entries: What was tried, and what became of it.
        out_of_time: True if not everything was tried.
    """

    def __init__(
        self,
        repairs: Sequence[str],
        attempt: Callable[[Form], Tried | None],
        time: Callable[..., None],
        within: Callable[[Tried], bool],
        *,
        corrects: bool,
    ) -> None:
        self._repairs, self._attempt, self._time, self._within = repairs, attempt, time, within
        self._corrects = corrects
        self.entries: list[RepairEntry] = []
        self.out_of_time = False

    def improve(self, one: Tried, end: float) -> Tried:
        """The form with the repairs that help it.

        Args:
            one: The form.
            end: When to stop, as `time.perf_counter` counts.
        """
        for repair in self._repairs:
            if repair == "ranges" and one.form.method is None:
                continue
            if time.perf_counter() > end:
                self.out_of_time = True
                break
            form = replace(one.form, repairs=(*one.form.repairs, repair))
            one = self._better(one, form, repair)
        if self._corrects and one.form.repairs and time.perf_counter() < end:
            turned = replace(one.form, corrected=not one.form.corrected)
            one = self._better(one, turned, "bias" if turned.corrected else "no bias")
        return one

    def _better(self, one: Tried, form: Form, repair: str) -> Tried:
        other = self._attempt(form)
        if other is None:
            self._record(one, None, repair, "changes nothing")
            return one
        if not loss(other) < loss(one) * _LEAST_GAIN:
            self._record(one, other, repair, other.verdict or "undone: no smaller error")
            return one
        other.ratio = one.ratio
        if repair == "insert":
            self._time(other, briefly=True)
            needed = not self._within(one)
            if other.speed < one.speed * _LEAST_SPEED and not (needed and other.is_faster):
                self._record(one, other, repair, "undone: costs more time than it is worth")
                return one
        self._record(one, other, repair, "kept")
        return other

    def _record(self, one: Tried, other: Tried | None, repair: str, verdict: str) -> None:
        after = None if other is None else _errors(other)
        self.entries.append(RepairEntry(one.form.kind, repair, _errors(one), after, verdict))


def _errors(one: Tried) -> Errors | None:
    found = one.deviation
    return None if found is None else Errors(found.error, found.typical, found.cosine)


def loss(one: Tried) -> float:
    """Error by which two results are compared: the geometric mean of the largest and the typical.

    The largest alone depends on a single element of a single sample.
    """
    found = one.deviation
    return math.inf if found is None else math.sqrt(found.error * found.typical)
