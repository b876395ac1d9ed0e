import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest

from onnxopt.runtime.inputs.plan import plan_inputs
from onnxopt.runtime.inputs.trials import Trials, run_plan
from onnxopt.runtime.library import CannotRunError
from onnxopt.runtime.session import open_session

HEADER = '<ir_version: 9, opset_import: ["": 18]>\n'


def trials(text: str, **weights: np.ndarray) -> Trials:
    proto = onnx.parser.parse_model(HEADER + text)
    for name, array in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    model = ir.from_proto(proto)
    return run_plan(open_session(model), plan_inputs(model))


def test_a_free_model_runs_at_three_sizes_without_notes():
    result = trials("g (float[batch, 4] x) => (float[batch, 4] y) { y = Relu(x) }")
    assert [one.feeds["x"].shape[0] for one in result.sets] == [1, 2, 3]
    assert result.notes == ()


def test_a_baked_batch_of_one_is_found_and_told():
    text = """g (float[batch, 4, seq] x) => (float[1, 4, seq] y) {
        s = Constant<value_ints = [1, 4, -1]>() r = Reshape(x, s) y = Add(r, x) }"""
    result = trials(text)
    assert {one.feeds["x"].shape[0] for one in result.sets} == {1}
    assert len({one.feeds["x"].shape[2] for one in result.sets}) == 3
    assert result.notes == ("batch runs at 1 only, not at 2, 3",)


def test_a_baked_number_of_samples_is_found():
    text = """g (float[batch, samples] x) => (float[batch, 16, 32] y) {
        s = Constant<value_ints = [0, 16, 32]>() y = Reshape(x, s) }"""
    result = trials(text)
    assert [one.feeds["x"].shape for one in result.sets] == [(1, 512), (2, 512), (3, 512)]
    assert result.notes[0].startswith("sequence runs at 512 only, not at 5, 8")


def test_a_window_that_is_too_short_grows():
    text = """g (float[batch, 1, time] x) => (float[batch, 2, frames] y) {
        y = Conv<strides = [10]>(x, k) }"""
    result = trials(text, k=np.ones((2, 1, 400), np.float32))
    sizes = [one.feeds["x"].shape[2] for one in result.sets]
    assert min(sizes) >= 400
    assert len(set(sizes)) >= 2


def test_an_image_size_named_in_the_message_is_tried():
    # 192 is on no ladder.
    text = """g (float[batch, 3, height, width] x) => (float[batch, 3, 192, 192] y) {
        y = Add(x, places) }"""
    result = trials(text, places=np.ones((3, 192, 192), np.float32))
    assert {one.feeds["x"].shape[2:] for one in result.sets} == {(192, 192)}


def test_two_sequences_of_their_own_differ_unless_they_may_not():
    free = """g (float[batch, encoder_sequence] x, float[batch, decoder_sequence] z)
        => (float[batch, a] y, float[batch, b] w) { y = Relu(x) w = Relu(z) }"""
    for one in trials(free).sets:
        assert one.feeds["x"].shape != one.feeds["z"].shape
    tied = free.replace("w = Relu(z)", "w = Add(x, z)")
    for one in trials(tied).sets:
        assert one.feeds["x"].shape == one.feeds["z"].shape


def test_a_model_that_runs_at_no_size_says_why():
    text = """g (float[batch, 4] x) => (float[5, 7] y) {
        s = Constant<value_ints = [50000, 7]>() y = Reshape(x, s) }"""
    with pytest.raises(CannotRunError, match=r"at batch=1: .*Reshape"):
        trials(text)


def test_fixed_shapes_run_twice_with_other_values():
    result = trials("g (float[2, 4] x) => (float[2, 4] y) { y = Relu(x) }")
    first, second = (one.feeds["x"] for one in result.sets)
    assert (first != second).all()


def test_inputs_that_give_nan_are_kept_once_and_others_chosen():
    result = trials("g (float[batch, 64] x) => (float[batch, 64] y) { y = Log(x) }")
    assert [one.description for one in result.sets] == [
        "batch=1, positive numbers",
        "batch=1",
        "batch=2",
        "batch=3, positive numbers",
    ]
    assert [bool(np.isnan(outputs["y"]).any()) for outputs in result.outputs] == [
        *(False, True, False, False)
    ]


def test_a_mask_of_the_other_sign_is_inverted():
    # 1 is padding, and with nothing but padding there is nothing to divide by.
    text = """g (float[batch, seq] x, float[batch, seq] mask) => (float[batch, seq] y) {
        m = Sub(one, mask) s = ReduceSum(m, axis) z = Mul(s, zero) n = Div(z, s) y = Add(x, n) }"""
    weights = {"one": np.float32([1]), "zero": np.float32([0]), "axis": np.array([1])}
    result = trials(text, **weights)
    assert result.sets[0].description == "batch=1, seq=8, inverted masks"
    assert not np.isnan(result.outputs[0]["y"]).any()


def test_a_past_of_length_zero_is_left_out_where_the_model_does_not_run_with_it():
    text = """g (float[batch, 2, past, 4] past_key) => (float[batch, 2, 4] y) {
        y = ReduceSum<keepdims = 0>(past_key, a) }"""
    both = trials(text, a=np.array([2]))
    assert [one.sizes["past"] for one in both.sets] == [4, 0, 6]
    some = trials(text.replace("ReduceSum<keepdims = 0>", "Gather<axis = 2>"), a=np.array(0))
    assert 0 not in [one.sizes["past"] for one in some.sets]
    assert len(some.sets) == 3


def test_two_inputs_that_concatenate_to_a_third_agree():
    result = trials(
        """g (float[b, s, 8] x, float[b, t, 8] z, float[b, u, 8] q) => (float[b, v, 8] y) {
        c = Concat<axis = 1>(x, z) y = Add(c, q) }"""
    )
    sizes = [(one.sizes["s"], one.sizes["t"], one.sizes["u"]) for one in result.sets]
    assert all(s + t == u for s, t, u in sizes)
    assert len(set(sizes)) == 3


def test_an_image_is_divisible_by_patches_and_windows():
    text = """g (float[b, 3, h, w] x) => (float[q, 49, 8] y) {
        c = Conv<strides = [4, 4], kernel_shape = [4, 4]>(x, k)
        t = Transpose<perm = [0, 2, 3, 1]>(c) s = Shape(t) n = Gather(s, i0) h0 = Gather(s, i1)
        w0 = Gather(s, i2) h1 = Div(h0, k7) w1 = Div(w0, k7)
        to = Concat<axis = 0>(n, h1, k7, w1, k7, c8) r = Reshape(t, to)
        u = Transpose<perm = [0, 1, 3, 2, 4, 5]>(r) y = Reshape(u, o) }"""
    numbers = {"i0": [0], "i1": [1], "i2": [2], "k7": [7], "c8": [8], "o": [-1, 49, 8]}
    weights = {name: np.array(value) for name, value in numbers.items()}
    result = trials(text, k=np.ones((8, 3, 4, 4), np.float32), **weights)
    shapes = [one.feeds["x"].shape[2:] for one in result.sets]
    assert all(height % 28 == width % 28 == 0 for height, width in shapes)
    assert len(set(shapes)) >= 2


def test_heads_of_a_cache_are_those_that_the_graph_splits_into():
    result = trials(
        """g (int64[b, s] ids, float[b, heads, past, 8] past_key) => (float[b, a, t, 8] k) {
        e = Gather(words, ids) r = Reshape(e, o) u = Transpose<perm = [0, 2, 1, 3]>(r)
        k = Concat<axis = 2>(past_key, u) }""",
        words=np.ones((9, 16), np.float32),
        o=np.array([0, 0, 2, 8]),
    )
    assert 2 in {one.feeds["past_key"].shape[1] for one in result.sets}
