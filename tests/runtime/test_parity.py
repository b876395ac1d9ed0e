import json

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from onnxopt.runtime.inputs.plan import InputSet, plan_inputs
from onnxopt.runtime.parity.check import check_parity
from onnxopt.runtime.session import open_session

HEADER = '<ir_version: 9, opset_import: ["": 18, "ai.onnx.ml": 3]>\n'


def proto(text: str, **weights: np.ndarray) -> onnx.ModelProto:
    model = onnx.parser.parse_model(HEADER + text)
    for name, array in weights.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return model


def parity(original: onnx.ModelProto, optimized: onnx.ModelProto):
    return check_parity(ir.from_proto(original), ir.from_proto(optimized))


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


MLP = """g (float[batch, 64] x) => (float[batch, 10] y) {
    a = MatMul(x, w1) b = Add(a, b1) c = Relu(b) y = MatMul(c, w2) }"""
WEIGHTS = {"w1": normal(64, 96) / 8, "b1": normal(96), "w2": normal(96, 10) / 10}

CONV_BN = """g (float[n, 3, h, w] x) => (float[n, 8, a, b] y) {
    c = Conv(x, k) y = BatchNormalization(c, gamma, beta, mean, var) }"""
CONV = "g (float[n, 3, h, w] x) => (float[n, 8, a, b] y) { y = Conv(x, k, bias) }"
BN = {
    "gamma": 1 + normal(8) / 10,
    "beta": normal(8),
    "mean": normal(8),
    "var": 1 + normal(8) ** 2,
}
KERNEL = normal(8, 3, 3, 3)


def folded(epsilon: float = 1e-5) -> onnx.ModelProto:
    factor = BN["gamma"] / np.sqrt(BN["var"] + np.float32(epsilon))
    bias = BN["beta"] - BN["mean"] * factor
    return proto(CONV, k=KERNEL * factor[:, None, None, None], bias=bias.astype(np.float32))


def test_a_model_is_at_parity_with_itself_on_three_sizes():
    result = parity(proto(MLP, **WEIGHTS), proto(MLP, **WEIGHTS))
    assert result.status == "passed"
    assert result.inputs == ("batch=1", "batch=2", "batch=3")
    assert result.outputs[0].difference.relative == 0
    assert result.outputs[0].noise is None
    assert result.feeds["x"].shape == (1, 64)


def test_repeated_self_comparison_raises_no_false_alarm():
    model = proto(MLP, **WEIGHTS)
    for seed in range(5):
        original = ir.from_proto(model)
        plan = plan_inputs(original, seed=seed)
        for optimization in ("all", "disabled"):
            result = check_parity(
                original, model.SerializeToString(), input_sets=plan, optimization=optimization
            )
            assert result.status == "passed", result.reasons


def test_an_honest_fusion_passes():
    assert parity(proto(CONV_BN, k=KERNEL, **BN), folded()).status == "passed"


@pytest.mark.parametrize("weight", ["w1", "b1", "w2"])
def test_a_weight_off_by_one_percent_fails(weight):
    changed = {**WEIGHTS, weight: WEIGHTS[weight] * np.float32(1.01)}
    result = parity(proto(MLP, **WEIGHTS), proto(MLP, **changed))
    assert result.status == "failed"
    assert result.reasons[0].startswith("output 'y': relative error")
    assert result.outputs[0].noise is not None
    assert result.outputs[0].difference.relative > 10 * result.outputs[0].tolerance.relative


def test_a_wrong_epsilon_fails():
    assert parity(proto(CONV_BN, k=KERNEL, **BN), folded(epsilon=1e-3)).status == "failed"


def test_a_fault_at_one_size_only_is_caught():
    good = "g (float[batch, 4] x) => (float[batch, 4] y) { y = Relu(x) }"
    # Only the first row: right for a batch of one.
    bad = """g (float[batch, 4] x) => (float[batch, 4] y) {
        r = Relu(x) i = Constant<value_ints = [0]>() f = Gather(r, i)
        s = Shape(x) y = Expand(f, s) }"""
    assert parity(proto(good), proto(bad)).status == "failed"


def test_a_baked_batch_in_the_optimized_model_fails():
    good = """g (float[batch, 4] x) => (float[batch, 2, 2] y) {
        s = Constant<value_ints = [-1, 2, 2]>() y = Reshape(x, s) }"""
    result = parity(proto(good), proto(good.replace("[-1, 2, 2]", "[1, 2, 2]")))
    assert result.status == "failed"
    assert "the optimized model does not run: at batch=2" in result.reasons[0]


POOLED = """g (int64[batch, seq] ids, int64[batch, seq] attention_mask)
    => (float[batch, 4] pooled, float[batch, seq, 4] hidden) {
    e = Gather(words, ids) m = Cast<to = 1>(attention_mask)
    a = Constant<value_ints = [2]>() u = Unsqueeze(m, a) hidden = Mul(e, PADDING)
    o = Mul(hidden, POOLING) i = Constant<value_ints = [1]>()
    pooled = ReduceSum<keepdims = 0>(o, i) }"""


def pooled(padding: str = "u", pooling: str = "u") -> onnx.ModelProto:
    text = POOLED.replace("PADDING", padding).replace("POOLING", pooling)
    return proto(text, words=normal(9, 4), one=np.float32([1]))


def test_a_mask_that_is_ignored_is_caught():
    assert parity(pooled(), pooled("one", "one")).status == "failed"


def test_only_what_is_no_padding_is_compared():
    result = parity(pooled(), pooled("one"))
    assert result.status == "passed", result.reasons
    assert "padding by attention_mask left out of: hidden" in result.notes


def test_a_nan_in_padding_is_caught():
    one = np.float32([1])
    nan = POOLED.replace("hidden = Mul(e, PADDING)", "h = Mul(e, u) hidden = Div(h, u)")
    nan = nan.replace("Mul(hidden, POOLING)", "Mul(h, u)")
    result = parity(pooled(), proto(nan, words=normal(9, 4), one=one))
    assert "new NaN" in result.reasons[0]


def test_interface_changes_fail():
    good = (
        "g (float[batch, 4] x) => (float[batch, 4] y, float[batch, 4] z) { y = Relu(x) z = Neg(x) }"
    )
    for old, new in (
        ("=> (float[batch, 4] y, float[batch, 4] z)", "=> (float[batch, 4] z, float[batch, 4] y)"),
        ("=> (float[batch, 4] y, float[batch, 4] z)", "=> (float[batch, 4] y)"),
    ):
        result = parity(proto(good), proto(good.replace(old, new)))
        assert result.status == "failed"
        assert "outputs" in result.reasons[0]
    text = "g (float[b, 4] x) => (float[b, 4] y) { y = Relu(x) }"
    renamed = "g (float[b, 4] data) => (float[b, 4] y) { y = Relu(data) }"
    assert "inputs ['data'], not ['x']" in parity(proto(text), proto(renamed)).reasons[0]
    half = "g (float[b, 4] x) => (float16[b, 4] y) { y = Cast<to = 10>(x) }"
    assert "is tensor(float16)" in parity(proto(text), proto(half)).reasons[0]


def test_a_declared_shape_that_the_result_contradicts_fails():
    text = "g (float[batch, 4] x) => (float[batch, 4] y) { y = Relu(x) }"
    wrong = text.replace("=> (float[batch, 4] y)", "=> (float[4, batch] y)")
    original = ir.from_proto(proto(text))
    assert any(
        "is declared as" in reason
        for reason in check_parity(original, ir.from_proto(proto(wrong))).reasons
    )


def test_new_nan_fails():
    text = "g (float[batch, 4] x) => (float[batch, 4] y) { a = Abs(x) y = Sqrt(a) }"
    result = parity(proto(text), proto(text.replace("Sqrt(a)", "Sqrt(x)")))
    assert "new NaN" in result.reasons[0]


def test_float16_has_a_wider_floor_and_still_catches_one_percent():
    text = "g (float16[batch, 64] x) => (float16[batch, 10] y) { y = MatMul(x, w) }"
    exact = normal(64, 10) / 8
    weight = exact.astype(np.float16)
    good = proto(text, w=weight)
    # Rounded again, as a weight is that another one was multiplied into.
    close = proto(text, w=(exact * (1 + 2e-4 * normal(64, 10, seed=1))).astype(np.float16))
    assert parity(good, close).status == "passed"
    assert parity(good, proto(text, w=weight * np.float16(1.01))).status == "failed"


def test_bfloat16_models_are_compared():
    text = "g (bfloat16[batch, 64] x) => (bfloat16[batch, 64] y) { y = OP(x) }"
    good = proto(text.replace("OP", "Identity"))
    assert parity(good, good).status == "passed"


def test_integers_and_texts_have_to_be_equal():
    text = "g (int64[batch, 4] x) => (int64[batch, 4] y) { y = Add(x, c) }"
    good = proto(text, c=np.array([1]))
    assert parity(good, good).status == "passed"
    result = parity(good, proto(text, c=np.array([2])))
    assert "100.00% of its entries differ" in result.reasons[0]
    words = """g (int64[N] x) => (string[N] y) {
        y = ai.onnx.ml.LabelEncoder<
            keys_int64s = [0, 1, 2, 3], values_strings = ["a", "b", "c", "D"]>(x) }"""
    assert parity(proto(words), proto(words)).status == "passed"
    assert parity(proto(words), proto(words.replace('"a"', '"z"'))).status == "failed"


def test_quantized_model_passes_with_itself_and_fails_with_another_scale():
    text = """g (float[batch, 32] x) => (float[batch, 8] y) {
        q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)
        w = DequantizeLinear(wq, ws) y = MatMul(d, w) }"""
    weights = {
        "s": np.array(0.05, np.float32),
        "z": np.array(128, np.uint8),
        "wq": np.random.default_rng(0).integers(-127, 128, (32, 8)).astype(np.int8),
        "ws": np.array(0.01, np.float32),
    }
    good = proto(text, **weights)
    assert parity(good, good).status == "passed"
    bad = proto(text, **{**weights, "ws": np.array(0.0102, np.float32)})
    assert parity(good, bad).status == "failed"


def test_the_noise_of_a_chaotic_model_widens_its_tolerance():
    # The difference of two nearly equal sums: all that is left is rounding.
    text = """g (float[batch, 512] x) => (float[batch, 1] y) {
        p = Mul(x, v) a = MatMul(x, w) b = ReduceSum<keepdims = 1>(p, axes) y = Sub(a, b) }"""
    w = normal(512, 1)
    weights = {"w": w, "v": w.reshape(512), "axes": np.array([1])}
    # The same in another order.
    other = text.replace("a = MatMul(x, w)", "m = MatMul(n, w) n = Neg(x) a = Neg(m)")
    other = other.replace("m = MatMul(n, w) n = Neg(x)", "n = Neg(x) m = MatMul(n, w)")
    other = other.replace("p = Mul(x, v)", "i = Gather(x, back, AXIS) p = Mul(i, u)")
    other = other.replace("(x, back, AXIS)", "<axis = 1>(x, back)").replace("Gather<", "Gather <")
    reverse = {"back": np.arange(511, -1, -1), "u": w.reshape(512)[::-1].copy()}
    model = proto(text, **weights)
    result = parity(model, proto(other, w=w, axes=np.array([1]), **reverse))
    assert result.outputs[0].difference.relative > 1e-5
    assert result.status == "passed"


def test_a_wide_tolerance_is_told():
    # A rounding of the input is a fifth of a turn of the sine.
    text = "g (float[batch, 64] x) => (float[batch, 64] y) { FACTORS y = Sin(b) }"
    one = proto(text.replace("FACTORS", "b = Mul(x, m)"), m=np.float32([1e6]))
    two = proto(text.replace("FACTORS", "a = Mul(x, k) b = Mul(a, k)"), k=np.float32([1e3]))
    result = parity(one, two)
    assert result.status == "passed"
    assert "small faults would not show" in result.notes[0]


def test_a_wrong_shape_between_two_nodes_is_no_reason_not_to_run():
    text = """g (float[n, 3, h, w] x) => (float[n, 8, a, b] y) {
        c = Conv(x, k) d = Relu(c) y = Conv(d, l) }"""
    model = proto(text, k=KERNEL, l=normal(8, 8, 3, 3))
    model.graph.value_info.append(
        onnx.helper.make_tensor_value_info("d", onnx.TensorProto.FLOAT, [1, 8, 1, 1])
    )
    assert parity(model, model).status == "passed"


def test_a_model_without_inputs_is_compared():
    text = "g () => (float[2] y) { y = OP(c) }"
    weights = {"c": np.array([1.0, -2.0], np.float32)}
    good, bad = (proto(text.replace("OP", op), **weights) for op in ("Relu", "Abs"))
    assert parity(good, good).status == "passed"
    assert parity(good, bad).status == "failed"


def test_random_outputs_are_left_out_and_told():
    text = """g (float[batch, 4] x) => (float[batch, 4] y, float[batch, 4] z) {
        r = RandomNormalLike(x) y = Add(x, r) z = NAME(x) }"""
    good = proto(text.replace("NAME", "Relu"))
    result = parity(good, good)
    assert result.status == "passed"
    assert result.notes == ("y: not comparable, r (RandomNormalLike) is random",)
    assert parity(good, proto(text.replace("NAME", "Abs"))).status == "failed"
    only = "g (float[batch, 4] x) => (float[batch, 4] y) { y = RandomNormalLike(x) }"
    result = parity(proto(only), proto(only))
    assert result.status == "not-run"
    assert result.reasons == ("not comparable: y (RandomNormalLike) is random",)


def test_an_original_that_cannot_run_is_not_run():
    text = """<ir_version: 9, opset_import: ["": 18, "custom": 1]>
        g (float[N] x) => (float[N] y) { y = custom.Frobnicate(x) }"""
    model = ir.from_proto(onnx.parser.parse_model(text))
    result = check_parity(model, model)
    assert result.status == "not-run"
    assert "Frobnicate" in result.reasons[0]
    sequence = ir.from_proto(proto("g (seq(float) x) => (seq(float) y) { y = Identity(x) }"))
    assert "input 'x' is a sequence" in check_parity(sequence, sequence).reasons[0]


def test_sequences_of_tensors_are_made_up_and_compared():
    same = ir.from_proto(proto("g (seq(float[N]) x) => (seq(float[N]) y) { y = Identity(x) }"))
    assert check_parity(same, same).status == "passed"


def test_an_optimized_model_that_cannot_load_fails():
    good = proto("g (float[N] x) => (float[N] y) { y = Relu(x) }")
    bad = proto("g (float[N] x) => (float[N] y) { y = Relu(x) }")
    bad.graph.node[0].op_type = "Rleu"
    result = parity(good, bad)
    assert result.status == "failed"
    assert "the optimized model does not run" in result.reasons[0]


def test_maps_of_a_classifier_are_compared():
    text = """g (float[N, 2] x) => (seq(map(int64, float[1])) y) {
        y = ai.onnx.ml.ZipMap<classlabels_int64s = [0, 1]>(x) }"""
    model = onnx.parser.parse_model(HEADER + text.replace("seq(map(int64, float[1]))", "float[N]"))
    kind = model.graph.output[0].type
    kind.Clear()
    kind.sequence_type.elem_type.map_type.key_type = onnx.TensorProto.INT64
    kind.sequence_type.elem_type.map_type.value_type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    other = onnx.ModelProto()
    other.CopyFrom(model)
    other.graph.node.insert(0, onnx.helper.make_node("Neg", ["x"], ["n"]))
    other.graph.node[1].input[0] = "n"
    data = model.SerializeToString()
    assert check_parity(data, data).status == "passed"
    assert check_parity(data, other.SerializeToString()).status == "failed"


def test_given_inputs_are_used_as_they_are():
    text = "g (float[batch, 4] x) => (float[batch, 4] y) { y = OP(x) }"
    positive = [InputSet({"x": np.ones((7, 4), np.float32)}, "mine")]
    original, optimized = (ir.from_proto(proto(text.replace("OP", op))) for op in ("Relu", "Abs"))
    result = check_parity(original, optimized, input_sets=positive)
    assert (result.status, result.inputs) == ("passed", ("mine",))
    assert check_parity(original, optimized).status == "failed"


def test_paths_and_results_as_plain_data(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(proto(MLP, **WEIGHTS), path)
    result = check_parity(path, str(path))
    data = json.loads(json.dumps(result.to_dict()))
    assert data["status"] == "passed"
    assert data["outputs"][0]["name"] == "y"
    assert data["inputs"] == ["batch=1", "batch=2", "batch=3"]
    assert data["seconds"] > 0
    assert "feeds" not in data
    assert "3 input sets" in result.summary()


def test_models_are_left_as_they_are():
    model = ir.from_proto(proto(MLP, **WEIGHTS))
    before = ir.to_proto(model).SerializeToString()
    check_parity(model, model)
    open_session(model)
    assert ir.to_proto(model).SerializeToString() == before
