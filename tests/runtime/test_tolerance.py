import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest

from onnxopt.runtime.parity.comparison import compare
from onnxopt.runtime.parity.difference import Difference
from onnxopt.runtime.parity.tolerance import above_noise, floor


def model(kind: str, body: str = "y = Identity(x)") -> ir.Model:
    text = f'<ir_version: 9, opset_import: ["": 18]> g ({kind}[N] x) => ({kind}[N] y) {{ {body} }}'
    return ir.from_proto(onnx.parser.parse_model(text))


@pytest.mark.parametrize(
    ("kind", "relative"),
    [("float", 1e-5), ("double", 1e-5), ("float16", 1e-3), ("bfloat16", 8e-3), ("int64", 1e-5)],
)
def test_the_floor_follows_the_coarsest_type(kind, relative):
    assert floor(model(kind)).relative == relative


def test_a_cast_inside_counts():
    assert floor(model("float", "h = Cast<to = 10>(x) y = Cast<to = 1>(h)")).relative == 1e-3


def test_small_noise_allows_ten_times_and_large_noise_twice():
    base = floor(None)
    assert above_noise(base, Difference("float", relative=1e-7)).relative == base.relative
    assert above_noise(base, Difference("float", relative=1e-5)).relative == pytest.approx(1e-4)
    assert above_noise(base, Difference("float", relative=0.05)).relative == pytest.approx(0.1)


def test_integers_may_differ_as_far_as_the_original_does():
    base = floor(None)
    difference = Difference("integer", mismatches=0.01)
    assert base.complaint(difference)
    assert not above_noise(base, Difference("integer", mismatches=0.01)).complaint(difference)


def test_an_error_in_common_shows_among_roundings_as_large():
    rng = np.random.default_rng(0)
    reference = rng.standard_normal(10_000).astype(np.float32)
    roundings = rng.normal(0, 0.03, 10_000).astype(np.float32)
    noise = compare(reference, reference + roundings)
    tolerance = above_noise(floor(None), noise)
    again = compare(reference, reference + roundings[::-1])
    assert not tolerance.complaint(again)
    scaled = compare(reference, reference * np.float32(1.03) + roundings[::-1])
    assert tolerance.complaint(scaled).startswith("size off by 0.029")
