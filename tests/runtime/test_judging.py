"""What the original breaks by itself excuses the same in the other model, and nothing else."""

from __future__ import annotations

import pytest

from onnxopt.runtime.parity.difference import Difference
from onnxopt.runtime.parity.judging import _judged
from onnxopt.runtime.parity.tolerance import floor


@pytest.mark.parametrize(
    ("own", "broken", "relative", "passes"),
    [
        ("2 new NaN", "1 NaN of the first model are numbers", 0.0, True),
        ("2 new NaN", "1 NaN of the first model are numbers", 0.5, False),
        ("infinities differ", "shape [1, 2], not [1, 3]", 0.0, False),
        ("", "3 new NaN", 0.0, False),
        ("shape [1, 2], not [1, 3]", "shape [1, 4], not [1, 3]", 0.0, True),
    ],
)
def test_breakage_is_excused_only_when_the_original_breaks_alike(
    own: str, broken: str, relative: float, passes: bool
) -> None:
    difference = Difference("float", relative=relative, elements=6, broken=broken)
    noise = Difference("float", elements=6, broken=own)
    assert (_judged("y", difference, floor(None), noise).complaint == "") == passes
