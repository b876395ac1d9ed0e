"""Models against themselves, computed in other ways and at other sizes: never a difference."""

import itertools

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest

from onnxopt.graph.loading import load_model
from onnxopt.runtime.inputs.plan import plan_inputs
from onnxopt.runtime.inputs.trials import run_plan, run_sets
from onnxopt.runtime.parity.judging import Judge
from onnxopt.runtime.parity.noise import NoiseRuns
from onnxopt.runtime.session import open_session

ENCODER = """<ir_version: 9, opset_import: ["": 18]>
g (int64[batch, seq] ids, int64[batch, seq] attention_mask) => (float[batch, seq, 32] y) {
    e = Gather(words, ids) m = Cast<to = 1>(attention_mask) n = Sub(m, one)
    far = Mul(n, large) bias = Unsqueeze(far, axis)
    q = MatMul(e, wq) k = MatMul(e, wk) v = MatMul(e, wv)
    kt = Transpose<perm = [0, 2, 1]>(k) s = MatMul(q, kt) t = Add(s, bias)
    p = Softmax<axis = -1>(t) c = MatMul(p, v) d = Add(c, e)
    y = LayerNormalization(d, gain) }"""


def encoder() -> ir.Model:
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal((32, 32)) / 6 for name in ("wq", "wk", "wv")}
    weights |= {"words": rng.standard_normal((50, 32)), "gain": np.ones(32)}
    weights |= {"one": np.ones(1), "large": np.array([1e4])}
    proto = onnx.parser.parse_model(ENCODER)
    for name, array in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1]), "axis"))
    return ir.from_proto(proto)


MODELS = {
    "digits_cnn": lambda: load_model("models/digits_cnn.onnx"),
    "digits_transformer": lambda: load_model("models/digits_transformer.onnx"),
    "encoder": encoder,
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_never_differs_from_itself(name: str):
    """34 comparisons of each of three models, of three sizes each."""
    model = MODELS[name]()

    def opened(source, optimization="all", *, threads=None):
        return open_session(source, optimization=optimization, threads=threads, spinning=False)

    ways = list(itertools.product(("all", "extended", "basic", "disabled"), (1, 2, 3)))
    rng = np.random.default_rng(0)
    for seed in range(34):
        first, second = (ways[index] for index in rng.choice(len(ways), 2, replace=False))
        session = opened(model, first[0], threads=first[1])
        reference = run_plan(session, plan_inputs(model, seed=seed))
        result = run_sets(opened(model, second[0], threads=second[1]), reference.sets)
        judge = Judge(model, model, model, opened, NoiseRuns(model, opened, first[0]))
        failed = [o for o in judge.outputs(reference, result, skipped={}) if o.complaint]
        assert not failed, (first, second, seed, failed[0].complaint)
