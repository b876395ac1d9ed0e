import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from click.testing import CliRunner

import onnxopt
from onnxopt.cli.group import cli
from onnxopt.core.errors import InvalidInputError

HEADER = '<ir_version: 9, opset_import: ["": 18]>\n'
MLP = "g (float[batch, 8] x) => (float[batch, 6] y) { a = MatMul(x, w) y = Tanh(a) }"
WEIGHT = np.random.default_rng(0).standard_normal((8, 6)).astype(np.float32)


@pytest.fixture
def save(tmp_path: Path):
    def write(name: str, text: str = MLP, **weights: np.ndarray) -> Path:
        proto = onnx.parser.parse_model(HEADER + text)
        for key, array in (weights or {"w": WEIGHT}).items():
            proto.graph.initializer.append(onnx.numpy_helper.from_array(array, key))
        path = tmp_path / name
        onnx.save(proto, path)
        return path

    return write


def run(*arguments: object):
    return CliRunner().invoke(cli, ["compare", *map(str, arguments)])


def test_a_model_is_at_parity_with_its_copy(save):
    result = run(save("a.onnx"), save("b.onnx"))
    assert result.exit_code == 0, result.output
    assert "at parity on 3 input sets" in result.stdout
    assert "A against itself" in result.stdout
    assert "SQNR" in result.stdout


def test_exit_code_is_three_when_a_weight_is_off(save):
    result = run(save("a.onnx"), save("b.onnx", w=WEIGHT * np.float32(1.01)), "-v")
    assert result.exit_code == 3
    assert "not at parity" in result.stdout
    assert "batch=2" in result.stdout  # -v lists every set


def test_exit_code_is_that_of_the_process_too(save):
    paths = save("a.onnx"), save("b.onnx", w=-WEIGHT)
    done = subprocess.run(
        [sys.executable, "-m", "onnxopt", "compare", *map(str, paths), "-q"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "")


def test_json_has_every_set_and_the_noise(save):
    data = json.loads(run(save("a.onnx"), save("b.onnx"), "--json").stdout)
    assert data["status"] == "passed"
    output = data["outputs"][0]
    assert [one["inputs"] for one in output["sets"]] == ["batch=1", "batch=2", "batch=3"]
    assert output["noise"] is not None
    assert output["sqnr_db"] is None  # equal: infinite, which JSON lacks
    assert output["agreement"] == 1.0


def test_tolerance_overrides_the_verdict(save):
    paths = save("a.onnx"), save("b.onnx", w=WEIGHT * np.float32(1.01))
    assert run(*paths, "--tolerance", 0.1).exit_code == 0
    assert run(*paths, "--tolerance", 1e-4).exit_code == 3


def test_labels_score_both_models(save, tmp_path):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((50, 8)).astype(np.float32)
    labels = (x @ WEIGHT).argmax(axis=1)
    np.savez(tmp_path / "data.npz", x=x)
    np.save(tmp_path / "labels.npy", labels)
    (tmp_path / "mine.py").write_text("def wrong(p, y):\n    return (p.argmax(-1) != y).mean()\n")
    result = run(
        save("a.onnx"), save("b.onnx", w=-WEIGHT), "--inputs", tmp_path / "data.npz",
        "--labels", tmp_path / "labels.npy", "--metric", "top1",
        "--metric", f"{tmp_path}/mine.py:wrong", "--json",
    )  # fmt: skip
    scores = json.loads(result.stdout)["scores"]
    assert scores[0]["first"] == 1.0
    assert scores[0]["second"] < 0.5
    assert scores[1]["second"] == pytest.approx(1 - scores[0]["second"])


def test_batches_of_different_sizes_are_scored_together(save):
    rng = np.random.default_rng(1)
    sets = [{"x": rng.standard_normal((n, 8)).astype(np.float32)} for n in (5, 5, 2)]
    labels = np.concatenate([(one["x"] @ WEIGHT).argmax(axis=1) for one in sets])
    result = onnxopt.compare(save("a.onnx"), save("b.onnx"), inputs=sets, labels=labels)
    assert result.passed
    assert (result.scores[0].metric, result.scores[0].first) == ("top1", 1.0)
    assert len(result.outputs[0].sets) == 3


def test_float16_against_float32_is_compared_as_float32(save):
    half = MLP.replace("float[", "float16[")
    result = onnxopt.compare(save("a.onnx"), save("b.onnx", half, w=WEIGHT.astype(np.float16)))
    assert 1e-5 < result.outputs[0].parity.difference.relative < 1e-2
    assert "float16" in result.notes[0]


MASKED = """g (int64[batch, seq] ids, int64[batch, seq] attention_mask)
    => (float[batch, seq, 4] y) {
    e = Gather(words, ids) m = Cast<to = 1>(attention_mask) u = Unsqueeze(m, two)
    k = Mul(e, u) p = Sub(one, u) q = Mul(p, waste) y = Add(k, q) }"""


def test_padding_is_left_out_where_the_mask_says_so(save):
    words = np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32)
    rest = {"words": words, "one": np.float32([1]), "two": np.int64([2])}
    first = save("a.onnx", MASKED, waste=np.float32([0]), **rest)
    second = save("b.onnx", MASKED, waste=np.float32([7]), **rest)
    result = run(first, second)
    assert result.exit_code == 0, result.output
    assert "padding by attention_mask left out of: y" in result.stdout
    data = np.ones((2, 3), np.int64)
    full = onnxopt.compare(first, second, inputs={"ids": data, "attention_mask": data})
    assert full.outputs[0].parity.difference.elements == 24


def test_a_model_that_lost_a_size_is_not_at_parity(save):
    text = "g (float[batch, 4] x) => (float[batch, 2, 2] y) { y = Reshape(x, s) }"
    first = save("a.onnx", text, s=np.int64([-1, 2, 2]))
    result = run(first, save("b.onnx", text, s=np.int64([1, 2, 2])))
    # Nothing was compared, so there is no table; the reason is the last line.
    assert result.exit_code == 3
    assert "second model does not run: at batch=2" in result.stdout


def test_sequences_are_synthesized(save):
    text = """g (seq(float[N, 4]) x) => (float[M, 4] y) {
        y = ConcatFromSequence<axis = 0>(x) }"""
    result = onnxopt.compare(save("a.onnx", text, w=WEIGHT), save("b.onnx", text, w=WEIGHT))
    assert result.passed


@pytest.mark.parametrize(
    ("second", "arguments", "message"),
    [
        (MLP.replace(" x)", " z)").replace("(x,", "(z,"), [], "the inputs of the first are x"),
        (MLP.replace("] y)", "] v)").replace("y =", "v ="), [], "those of the second v"),
        (MLP, ["--labels", "l.npy"], "give the inputs as well"),
        (MLP, ["--metric", "top1"], "--labels"),
        (MLP, ["--inputs", "good.npz", "--labels", "short.npy"], "3 labels for 5 predictions"),
        (MLP, ["--inputs", "good.npz", "--labels", "l.npy", "--metric", "topp"], "no metric"),
        (MLP, ["--inputs", "good.npz", "--labels", "l.npy", "--output", "z"], "outputs are y"),
        (MLP, ["--inputs", "nan.npz"], "holds 1 NaN"),
        (MLP, ["--inputs", "wide.npz"], "has the shape"),
        (MLP, ["--inputs", "text.npz"], "the data for it <U"),
        (MLP, ["--inputs", "none.npz"], "does not exist"),
        (MLP, ["--inputs", "nothing"], "no .npz or .npy file"),
        (MLP, ["--inputs", "no_such_module:f"], "cannot import"),
        (MLP, ["--provider", "cuda"], "CUDAExecutionProvider"),
        (MLP, ["--input-shape", "x=4"], "2 dimensions"),
    ],
)
def test_one_line_says_what_to_pass(save, tmp_path, monkeypatch, second, arguments, message):
    monkeypatch.chdir(tmp_path)
    good = np.ones((5, 8), np.float32)
    np.savez("good.npz", x=good)
    np.savez("nan.npz", x=np.where(np.arange(40).reshape(5, 8) == 3, np.nan, good))
    np.savez("wide.npz", x=np.ones((5, 9), np.float32))
    np.savez("text.npz", x=np.full((5, 8), "a"))
    np.save("l.npy", np.zeros(5, np.int64))
    np.save("short.npy", np.zeros(3, np.int64))
    Path("nothing").mkdir()
    result = run(save("a.onnx"), save("b.onnx", second), *arguments)
    assert isinstance(result.exception, InvalidInputError), result.output
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)


def test_inputs_that_cannot_be_made_up_are_refused_by_name(save):
    text = "g (seq(seq(float[N])) x) => (int64 y) { y = SequenceLength(x) }"
    path = save("a.onnx", text, w=WEIGHT)
    with pytest.raises(InvalidInputError, match=r"input 'x' is a sequence; give data"):
        onnxopt.compare(path, path)


def test_models_in_memory_are_compared(save):
    model = ir.load(save("a.onnx"))
    assert onnxopt.compare(model, model.clone()).passed
