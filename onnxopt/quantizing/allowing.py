"""What a larger budget of error would buy: the faster forms that only their error kept out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from onnxopt.quantizing.options import QuantizeOptions
from onnxopt.quantizing.report import Allowance
from onnxopt.quantizing.tried import Tried

# From here on an output is no longer the output; nobody should allow it.
_LOST = 1.0
# Figures are rounded up to so many digits, so that the budget is met when it is measured again.
_DIGITS = 2


def allowances(
    tried: Sequence[Tried],
    chosen: Tried | None,
    is_within: Callable[[Tried], bool],
    options: QuantizeOptions,
    float_score: float | None,
) -> list[Allowance]:
    """The forms over the budget that are faster than what was chosen, least error first.

    A form is left out where one that needs less is as fast.

    Args:
        tried: What was measured.
        chosen: What was chosen; None for float.
        is_within: True for a form within the budget.
        options: The budget.
        float_score: The float model's score by the metric, if there is one.
    """
    found: list[Allowance] = []
    fastest = 1.0 if chosen is None else chosen.speed
    over = [
        (one.deviation.error, one)
        for one in tried
        if one.deviation is not None and one.is_faster and not is_within(one)
    ]
    for error, one in sorted(over, key=lambda pair: pair[0]):
        if one.speed > fastest and error < _LOST:
            fastest = one.speed
            needed = _needed(one, options, float_score)
            found.append(Allowance(str(one.form), one.speed, error, needed))
    return found


def _needed(one: Tried, options: QuantizeOptions, float_score: float | None) -> dict[str, float]:
    """The options that let a form pass, with the least that they have to allow."""
    assert one.deviation is not None
    needed: dict[str, float] = {}
    if one.deviation.error > options.error_limit:
        needed["--max-error"] = _rounded_up(one.deviation.error)
    if options.min_cosine is not None and one.deviation.cosine < options.min_cosine:
        needed["--min-cosine"] = 1 - _rounded_up(1 - one.deviation.cosine)
    if one.score is not None and float_score is not None:
        drop = float_score - one.score + one.doubt
        if drop > options.max_accuracy_drop:
            needed["--max-accuracy-drop"] = _rounded_up(drop)
    return needed


def _rounded_up(number: float) -> float:
    step = 10.0 ** (math.floor(math.log10(number)) + 1 - _DIGITS)
    return round((math.floor(number / step) + 1) * step, 12)
