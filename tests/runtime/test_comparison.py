import numpy as np
import pytest

from onnxopt.runtime.parity.comparison import compare


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def test_equal_arrays_have_no_difference():
    difference = compare(random(3, 4), random(3, 4))
    assert difference.relative == difference.rms == difference.mismatches == 0
    assert difference.cosine == 1
    assert not difference.broken


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 7), (2, 0, 5)])
def test_nothing_is_equal_to_nothing(shape):
    difference = compare(np.zeros(shape, np.float32), np.zeros(shape, np.float32))
    assert (difference.broken, difference.relative, difference.elements) == ("", 0, 0)


def test_errors_are_relative_to_the_scale_of_the_output():
    reference = np.array([0.0, 100.0], np.float32)
    difference = compare(reference, reference + np.float32(0.1))
    assert difference.largest == pytest.approx(0.1, rel=1e-3)
    assert difference.relative == pytest.approx(0.001, rel=1e-3)


def test_a_mask_value_is_no_scale():
    reference = np.array([-3.4e38, 1.0, 2.0], np.float32)
    result = np.array([-3.4e38, 1.1, 2.0], np.float32)
    assert compare(reference, result).relative == pytest.approx(0.05, rel=1e-3)
    assert compare(reference, result).rms > 0.01


def test_a_probability_is_a_scale_however_small_the_others_are():
    reference = np.array([0.998, 0.002, *[1e-6] * 98], np.float32)
    result = reference.copy()
    result[1] = 0.003
    difference = compare(reference, result)
    assert difference.relative == pytest.approx(0.001, rel=0.01)
    assert difference.rms < 0.002


def test_rounding_of_an_output_that_is_zero_everywhere_is_small():
    assert compare(np.zeros(4, np.float32), np.full(4, 1e-9, np.float32)).relative < 1e-5


def test_nan_has_to_be_at_the_same_places():
    reference = np.array([np.nan, 1.0], np.float32)
    assert not compare(reference, reference.copy()).broken
    assert compare(reference, reference.copy()).nan == 1
    gone = compare(reference, np.array([5.0, 1.5], np.float32))
    assert gone.broken == "1 NaN of the first model are numbers"
    assert gone.relative == 0.5  # what is there in both is compared all the same
    assert compare(np.ones(2, np.float32), reference).broken == "1 new NaN"


def test_infinities_have_to_stay():
    reference = np.array([np.inf, 1.0], np.float32)
    assert not compare(reference, reference).broken
    for other in (-np.inf, 3.0, np.nan):
        assert compare(reference, np.array([other, 1.0], np.float32)).broken


def test_types_and_shapes_have_to_agree():
    assert "float64" in compare(np.ones(2, np.float32), np.ones(2)).broken
    assert "[3]" in compare(np.ones(2, np.float32), np.ones(3, np.float32)).broken


def test_integers_and_booleans_count_what_differs():
    difference = compare(np.arange(4), np.array([0, 1, 2, 9]))
    assert (difference.kind, difference.mismatches, difference.largest) == ("integer", 0.25, 6)
    assert compare(np.array([True, False]), np.array([True, True])).mismatches == 0.5
    big = np.array([2**63 - 1])
    assert compare(big, big - 1).mismatches == 1.0


def test_texts_are_compared():
    reference = np.array(["a", "b"], dtype=object)
    assert compare(reference, reference).mismatches == 0
    assert compare(reference, np.array(["a", "c"], dtype=object)).mismatches == 0.5


def test_sequences_and_maps_are_compared_inside():
    reference = [{0: 0.25, 1: 0.75}, {0: 0.5, 1: 0.5}]
    assert compare(reference, reference).relative == 0
    changed = [{0: 0.25, 1: 0.75}, {0: 0.4, 1: 0.6}]
    assert compare(reference, changed).relative == pytest.approx(0.2)
    assert compare(reference, reference[:1]).broken
    assert compare(reference, [{0: 0.25, 2: 0.75}, {0: 0.5, 1: 0.5}]).broken


def test_top1_tells_how_often_the_largest_stays():
    reference = np.eye(8, dtype=np.float32)
    result = reference.copy()
    result[0] = np.roll(result[0], 1)
    assert compare(reference, result).top1 == pytest.approx(7 / 8)
    assert compare(reference[:, :2], result[:, :2]).top1 is None


def test_the_worse_of_two_runs_is_kept():
    good = compare(np.ones(3, np.float32), np.ones(3, np.float32))
    bad = compare(np.ones(1, np.float32), np.full(1, 2, np.float32))
    for merged in (good.merge(bad), bad.merge(good)):
        assert merged.relative == 1.0
        assert merged.mismatches == 0.25
        assert merged.elements == 4
