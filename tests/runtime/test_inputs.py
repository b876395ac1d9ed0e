import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest

from onnxopt.core.errors import InvalidInputError
from onnxopt.runtime.inputs.plan import plan_inputs, synthesize
from onnxopt.runtime.library import CannotRunError

HEADER = '<ir_version: 9, opset_import: ["": 18, "ai.onnx.ml": 3]>\n'


def model(text: str, **weights: np.ndarray) -> ir.Model:
    proto = onnx.parser.parse_model(HEADER + text)
    for name, array in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(proto)


def feeds(text: str, name: str, **weights: np.ndarray) -> list[np.ndarray]:
    return [one.feeds[name] for one in synthesize(model(text, **weights))]


ENCODER = """g (int64[batch, seq] input_ids, int64[batch, seq] attention_mask,
    int64[batch, seq] token_type_ids, int64[batch, seq] position_ids) => (float[batch, seq, 4] y) {
    ids = Cast<to = 6>(input_ids)
    a = Gather(words, ids)
    b = Gather(types, token_type_ids)
    c = Gather(places, position_ids)
    m = Cast<to = 1>(attention_mask)
    axes = Constant<value_ints = [2]>()
    n = Unsqueeze(m, axes)
    ab = Add(a, b)
    abc = Add(ab, c)
    y = Mul(abc, n)
}"""
TABLES = {
    "words": np.ones((7, 4), np.float32),
    "types": np.ones((2, 4), np.float32),
    "places": np.ones((20, 4), np.float32),
}


def test_token_ids_stay_inside_the_table_behind_a_cast():
    for ids in feeds(ENCODER, "input_ids", **TABLES):
        assert ids.dtype == np.int64
        assert ids.min() >= 0
        assert ids.max() < 7
    assert max(ids.max() for ids in feeds(ENCODER, "input_ids", **TABLES)) > 1


def test_three_sizes_for_each_symbol_and_the_same_in_all_inputs():
    sets = synthesize(model(ENCODER, **TABLES))
    shapes = [one.feeds["input_ids"].shape for one in sets]
    assert shapes == [(1, 8), (2, 5), (3, 13)]
    for one in sets:
        assert len({array.shape for array in one.feeds.values()}) == 1
    assert sets[1].description == "batch=2, seq=5, ragged mask"


def test_masks_are_ones_first_and_ragged_on_either_side_later():
    first, second, third = feeds(ENCODER, "attention_mask", **TABLES)
    assert first.all()
    for mask in (second, third):
        lengths = mask.sum(axis=1)
        assert lengths[0] == mask.shape[1]
        assert (np.diff(lengths) < 0).all()
        assert lengths.min() >= 1
    # Ones before zeros, then zeros before ones.
    assert (np.diff(second, axis=1) <= 0).all()
    assert (np.diff(third, axis=1) >= 0).all()


def test_the_mask_of_a_batch_of_one_has_padding_as_well():
    text = """g (int64[1, 12] ids, int64[1, 12] attention_mask)
        => (float[1, 12, 4] y, int64[1, 12] z) {
        y = Gather(words, ids) z = Identity(attention_mask) }"""
    first, second = feeds(text, "attention_mask", words=TABLES["words"])
    assert first.sum() == 12
    assert second.sum() == 8


def test_integers_are_negative_where_they_are_only_computed_with():
    text = "g (int64[N, 50] x) => (int64[N, 50] y) { a = Mul(x, c) y = BODY }"
    weights = {"c": np.array([3]), "t": np.ones((9, 2), np.float32)}
    computed = feeds(text.replace("BODY", "Add(a, c)"), "x", **weights)[0]
    assert computed.min() < -50
    assert computed.max() > 50
    for body in ("Range(a, c, c)", "Reshape(c, a)", "Tile(c, a)", "com.microsoft.Odd(a)"):
        values = feeds(text.replace("BODY", body), "x", **weights)[0]
        assert (values.min(), values.max()) == (0, 3)
    divisor = feeds(text.replace("BODY", "Div(c, a)"), "x", **weights)[0]
    assert divisor.min() == 1


def test_loops_take_several_numbers_of_trips():
    text = """g (int64 M, float[4] x) => (float[4] y) { c = Constant<value = bool {1}>()
        y = Loop(M, c, x) <body = b (int64 i, bool k, float[4] a) => (bool kk, float[4] z)
        { kk = Identity(k) z = Add(a, x) }> }"""
    assert [int(trips) for trips in feeds(text, "M")] == [1, 3, 2, 0]


def test_positions_count_up_and_segments_are_two():
    position = feeds(ENCODER, "position_ids", **TABLES)[1]
    np.testing.assert_array_equal(position, np.tile(np.arange(5), (2, 1)))
    segments = feeds(ENCODER, "token_type_ids", **TABLES)[0]
    assert set(np.unique(segments)) == {0, 1}


def test_segments_stay_inside_a_table_of_one():
    tables = {**TABLES, "types": np.ones((1, 4), np.float32)}
    assert feeds(ENCODER, "token_type_ids", **tables)[0].max() == 0


DECODER = """g (int64[batch, sequence] input_ids, int64[batch, total] attention_mask,
    int64[batch, sequence] position_ids, float[batch, 2, past, 4] past_key,
    float[batch, 2, past, 4] past_value)
    => (float[batch, sequence, 4] y, float[batch, 2, past, 4] k, float[batch, 2, past, 4] v) {
    a = Gather(words, input_ids)
    y = Identity(a)
    k = Identity(past_key)
    v = Identity(past_value)
}"""


@pytest.mark.parametrize("total", ["total", "past + sequence", "total_sequence_length"])
def test_mask_covers_past_and_sequence_and_positions_go_on(total):
    text = DECODER.replace("[batch, total]", "[batch, 7]")
    decoder = model(text, words=TABLES["words"])
    mask = next(v for v in decoder.graph.inputs if v.name == "attention_mask")
    mask.shape = ir.Shape(["batch", total])
    for one in synthesize(decoder):
        key, value = (one.feeds[f"past_{n}"] for n in ("key", "value"))
        assert key.shape == value.shape
        past, sequence = key.shape[2], one.feeds["input_ids"].shape[1]
        assert one.feeds["attention_mask"].shape == (key.shape[0], past + sequence)
        assert one.feeds["position_ids"][0, 0] == past
        # After a past the new tokens see themselves: padding is inside the past.
        assert not past or one.feeds["attention_mask"][:, past:].all()
    assert [one.feeds["past_key"].shape[2] for one in synthesize(decoder)] == [4, 0, 6]
    assert [one.feeds["attention_mask"].all() for one in synthesize(decoder)] == [
        True,
        False,
        False,
    ]


def test_images_differ_in_height_and_width_and_are_multiples_of_32():
    text = "g (float[n, 3, h, w] x) => (float[n, 8, a, b] y) { y = Conv(x, k) }"
    shapes = [x.shape for x in feeds(text, "x", k=np.ones((8, 3, 3, 3), np.float32))]
    assert [shape[0] for shape in shapes] == [1, 2, 3]
    for _, channels, height, width in shapes:
        assert channels == 3
        assert height % 32 == width % 32 == 0
        assert height != width


def test_dimensions_without_a_name_are_their_own_and_batches_agree():
    text = "g (float[?, 3, ?, ?] x, float[?, 4] z) => (float[?] y) { y = Identity(x) w = Relu(z) }"
    one = synthesize(model(text))[1]
    assert one.feeds["x"].shape == (2, 3, 96, 160)
    assert one.feeds["z"].shape == (2, 4)


@pytest.mark.parametrize(
    ("text", "weights", "expected"),
    [
        ("y = MatMul(x, w)", {"w": np.ones((11, 3), np.float32)}, 11),
        ("s = Relu(x) y = MatMul(s, w)", {"w": np.ones((11, 3), np.float32)}, 11),
        ("y = Gemm<transB = 1>(x, w)", {"w": np.ones((3, 11), np.float32)}, 11),
        ("y = ai.onnx.ml.Scaler<scale = [1.0, 2.0, 3.0], offset = [0.0]>(x)", {}, 3),
    ],
)
def test_features_come_from_the_weight_that_consumes_them(text, weights, expected):
    for x in feeds(f"g (float[N, M] x) => (float[N, K] y) {{ {text} }}", "x", **weights):
        assert x.shape[1] == expected


def test_states_start_at_zero_and_are_small_later():
    text = """g (float[t, b, 5] x, float[1, b, 4] h0) => (float[t, 1, b, 4] y, float[1, b, 4] hn) {
        y, hn = GRU<hidden_size = 4>(x, w, r, , , h0) }"""
    weights = {"w": np.ones((1, 12, 5), np.float32), "r": np.ones((1, 12, 4), np.float32)}
    first, second, _ = feeds(text, "h0", **weights)
    assert not first.any()
    assert second.any()
    assert abs(second).max() < 1
    assert second.shape == (1, 2, 4)


def test_hidden_states_of_an_encoder_are_a_sequence():
    text = """g (float[?, ?, 6] encoder_hidden_states) => (float[?, ?, 6] y) {
        y = Relu(encoder_hidden_states) }"""
    assert [x.shape for x in feeds(text, "encoder_hidden_states")] == [
        (1, 8, 6),
        (2, 5, 6),
        (3, 13, 6),
    ]


def test_lengths_fall_and_the_first_is_the_sequence():
    text = """g (int64[batch, seq] ids, int64[batch] input_lengths)
        => (float[batch, seq, 4] y, int64[batch] z) {
        y = Gather(words, ids) z = Identity(input_lengths) }"""
    for one in synthesize(model(text, words=TABLES["words"])):
        lengths = one.feeds["input_lengths"]
        assert lengths[0] == one.feeds["ids"].shape[1]
        assert (np.diff(lengths) <= 0).all()
        assert lengths.min() >= 1


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("float16", "float16"), ("bfloat16", "bfloat16"), ("double", "float64"), ("float", "float32")],
)
def test_floats_keep_their_type(kind, dtype):
    x = feeds(f"g ({kind}[N, 4] x) => ({kind}[N, 4] y) {{ y = Identity(x) }}", "x")[0]
    assert x.dtype.name == dtype
    assert np.unique(x.astype(np.float32)).size > 1


def test_bytes_fill_their_range():
    x = feeds("g (uint8[N, 500] x) => (uint8[N, 500] y) { y = Identity(x) }", "x")[0]
    assert x.dtype == np.uint8
    assert x.max() > 200


def test_integers_compared_with_classes_are_below_their_number():
    text = """g (int32[N, 9] x) => (float[N, 9, 30] y) {
        a = Constant<value_ints = [2]>() u = Unsqueeze(x, a)
        e = Equal(u, classes) y = Cast<to = 1>(e) }"""
    x = feeds(text, "x", classes=np.arange(30, dtype=np.int32))[2]
    assert 4 < x.max() < 30


def test_onehot_depth_bounds_its_indices():
    text = "g (int64[N] x) => (float[N, 5] y) { y = OneHot(x, depth, values) }"
    weights = {"depth": np.array(5), "values": np.array([0, 1], np.float32)}
    assert all(x.max() < 5 for x in feeds(text, "x", **weights))


def test_booleans_alternate_and_masks_of_booleans_do_not_start_at_random():
    text = """g (bool use_cache, bool[batch, seq] pad_mask)
        => (bool y, bool[batch, seq] z) { y = Not(use_cache) z = Not(pad_mask) }"""
    sets = synthesize(model(text))
    assert {bool(one.feeds["use_cache"]) for one in sets} == {True, False}
    assert sets[0].feeds["pad_mask"].all()
    assert sets[0].feeds["pad_mask"].dtype == np.bool_


def test_texts_are_those_that_the_model_knows():
    text = """g (string[N, 1] x) => (int64[N, 1] y) {
        y = ai.onnx.ml.LabelEncoder<keys_strings = ["red", "blue"], values_int64s = [1, 2]>(x) }"""
    for x in feeds(text, "x"):
        assert set(x.reshape(-1)) <= {"red", "blue"}


def test_quantized_inputs_fill_the_range_they_were_calibrated_to():
    text = "g (float[N, 400] x) => (uint8[N, 400] y) { y = QuantizeLinear(x, s, z) }"
    weights = {"s": np.array(0.1, np.float32), "z": np.array(0, np.uint8)}
    x = feeds(text, "x", **weights)[0]
    assert x.min() >= 0
    assert 20 < x.max() < 25.6


def test_sample_rates_are_rates():
    text = """g (float[b, 512] input, int64 sr) => (float[b, 512] y, int64 z) {
        y = Relu(input) z = Neg(sr) }"""
    assert {int(sr) for sr in feeds(text, "sr")} == {16000, 8000}


def test_inputs_with_a_default_are_not_fed():
    text = "g (float[N, 4] x, float[4] w) => (float[N, 4] y) { y = Add(x, w) }"
    assert set(synthesize(model(text, w=np.ones(4, np.float32)))[0].feeds) == {"x"}


def test_the_same_seed_gives_the_same_values_and_another_gives_others():
    one, again = (synthesize(model(ENCODER, **TABLES), seed=3)[0] for _ in range(2))
    other = synthesize(model(ENCODER, **TABLES), seed=4)[0]
    np.testing.assert_array_equal(one.feeds["input_ids"], again.feeds["input_ids"])
    assert (one.feeds["input_ids"] != other.feeds["input_ids"]).any()


def test_ids_inside_a_function_and_a_subgraph_are_found():
    text = """g (int64[N] x, bool c) => (float[N, 4] y) {
        y = If(c) <
            then_branch = a () => (float[N, 4] p) { p = Gather(words, x) },
            else_branch = b () => (float[N, 4] q) { q = Gather(words, x) }
        > }"""
    assert all(0 <= x.max() < 3 for x in feeds(text, "x", words=np.ones((3, 4), np.float32)))


def test_types_of_less_than_a_byte_are_refused():
    text = "g (uint4[N] nibbles) => (uint4[N] y) { y = Identity(nibbles) }"
    with pytest.raises(CannotRunError, match="input 'nibbles' is of type UINT4"):
        synthesize(model(text))


@pytest.mark.parametrize("kind", ["seq(float)", "optional(seq(float[N]))"])
def test_sequences_and_optionals_of_unknown_items_are_refused_by_name(kind):
    text = f"g ({kind} things) => ({kind} y) {{ y = Identity(things) }}"
    with pytest.raises(CannotRunError, match="input 'things' is"):
        synthesize(model(text))


def test_given_shapes_win_and_bind_the_symbols_of_other_inputs():
    sets = synthesize(model(ENCODER, **TABLES), input_shapes={"input_ids": (4, 6)})
    for one in sets:
        assert {array.shape for array in one.feeds.values()} == {(4, 6)}
    with pytest.raises(InvalidInputError, match="no input is named 'ids'"):
        plan_inputs(model(ENCODER, **TABLES), input_shapes={"ids": (1, 2)})
    with pytest.raises(InvalidInputError, match="2 dimensions, not 1"):
        plan_inputs(model(ENCODER, **TABLES), input_shapes={"input_ids": (1,)})


def test_given_data_wins_and_the_rest_matches_it(tmp_path):
    ids = np.full((2, 9), 3)
    np.savez(tmp_path / "data.npz", input_ids=ids)
    for data in ({"input_ids": ids}, tmp_path / "data.npz", [{"input_ids": ids}]):
        plan = plan_inputs(model(ENCODER, **TABLES), data)
        assert plan.sets == 1
        one = plan.build(plan.wanted(0), 0)
        np.testing.assert_array_equal(one.feeds["input_ids"], ids)
        assert one.feeds["attention_mask"].shape == (2, 9)


def test_given_data_sets_the_size_of_dimensions_without_a_name():
    text = """g (int64[?, ?] ids, int64[?, ?] mask) => (float[?, ?, 4] y, int64[?, ?] z) {
        y = Gather(words, ids) z = Identity(mask) }"""
    plan = plan_inputs(model(text, words=TABLES["words"]), {"ids": np.zeros((4, 6), np.int64)})
    assert plan.build(plan.wanted(0), 0).feeds["mask"].shape == (4, 6)


def test_given_data_is_cast_within_its_family_and_refused_otherwise():
    text = "g (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }"
    plan = plan_inputs(model(text), {"x": np.ones((1, 4))})
    assert plan.build(plan.wanted(0), 0).feeds["x"].dtype == np.float32
    with pytest.raises(InvalidInputError, match="is FLOAT, the data for it int64"):
        plan_inputs(model(text), {"x": np.ones((1, 4), np.int64)})
    with pytest.raises(InvalidInputError, match="has the shape"):
        plan_inputs(model(text), {"x": np.ones((1, 5))})
    with pytest.raises(InvalidInputError, match="no input is named 'z'"):
        plan_inputs(model(text), {"z": np.ones((1, 4))})


def test_pickled_data_is_never_loaded(tmp_path):
    path = tmp_path / "evil.npz"
    np.savez(path, x=np.array([{"a": 1}], dtype=object))
    text = "g (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }"
    with pytest.raises(InvalidInputError, match=r"evil\.npz: cannot read"):
        plan_inputs(model(text), path)
    with pytest.raises(InvalidInputError, match="does not exist"):
        plan_inputs(model(text), tmp_path / "missing.npz")


def test_sequences_of_tensors_and_optional_tensors_are_made_up():
    first, second = feeds(
        "g (seq(float[N, 4]) x) => (seq(float[N, 4]) y) { y = Identity(x) }", "x"
    )[:2]
    assert [len(first), len(second)] == [2, 3]
    assert second[0].shape == (2, 4)
    assert not np.array_equal(first[0], first[1])
    text = "g (optional(float[N, 4]) x) => (float[N, 4] y) { y = OptionalGetElement(x) }"
    assert feeds(text, "x")[1].shape == (2, 4)


STFT = """g (float[batch_size, N] x, int64[batch_size] lens) => (float[b, t, f, 2] y) {
    y = STFT(x, hop, window)
}"""


def test_signals_are_longer_than_a_frame():
    weights = {"hop": np.array(160), "window": np.ones(320, np.float32)}
    shapes = [signal.shape for signal in feeds(STFT, "x", **weights)]
    assert shapes == [(1, 8 * 320), (2, 5 * 320), (3, 13 * 320)]


def test_waveforms_without_stft_get_a_usual_length():
    text = "g (float[batch, N] waveform) => (float[batch, N] y) { y = Abs(waveform) }"
    assert [x.shape for x in feeds(text, "waveform")] == [(1, 4096), (2, 2560), (3, 6656)]
    assert [x.shape for x in feeds(text.replace("waveform", "x"), "x")] == [(1, 8), (2, 5), (3, 13)]


def test_given_length_of_a_signal_counts():
    weights = {"hop": np.array(160), "window": np.ones(320, np.float32)}
    plan = plan_inputs(model(STFT, **weights), input_shapes={"x": [2, 100]})
    assert plan.build(plan.wanted(0), 0).feeds["x"].shape == (2, 100)
