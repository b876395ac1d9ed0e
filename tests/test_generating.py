"""`generate`: the cache gives what whole sequences give, sampling, and bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.rewriting import parse_model, run

from onnxopt.cli.group import cli
from onnxopt.core.errors import InvalidInputError
from onnxopt.generating import generate
from onnxopt.graph.saving import save_model
from onnxopt.runtime.decoding import Decoder, Sampler

_VOCABULARY = 32
# The logits are a function of the sum of all embeddings so far, which the cache holds.
_CACHED = """
g (int64[batch,sequence] input_ids, int64[batch,total] attention_mask,
   int64[batch,sequence] position_ids, float[batch,1,past,4] past_key_values_0_key)
=> (float[batch,sequence,32] logits, float[batch,1,total,4] present_0_key) {
  e = Gather(table, input_ids)
  p = Cast<to=1>(position_ids)
  p3 = Unsqueeze(p, two)
  s = Mul(p3, tenth)
  f = Add(e, s)
  h = Unsqueeze(f, one)
  present_0_key = Concat<axis=2>(past_key_values_0_key, h)
  sum = CumSum(present_0_key, where)
  last = Neg(n)
  t = Slice(sum, last, end, axis)
  flat = Squeeze(t, one)
  logits = MatMul(flat, head)
}
"""


def _weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "table": rng.standard_normal((_VOCABULARY, 4)).astype(np.float32),
        "head": rng.standard_normal((4, _VOCABULARY)).astype(np.float32),
    }


@pytest.fixture
def cached(tmp_path: Path) -> Path:
    text = _CACHED.replace("last = Neg(n)", "n0 = Shape<start=1>(input_ids)  last = Neg(n0)")
    numbers = {"one": [1], "two": [2], "axis": [2], "end": [np.iinfo(np.int64).max]}
    weights = _weights() | {name: np.array(number) for name, number in numbers.items()}
    weights |= {"tenth": np.array(0.1, np.float32), "where": np.array(2)}
    save_model(parse_model(text, weights), tmp_path / "model.onnx")
    return tmp_path


def _expected(tokens: list[int], count: int) -> list[int]:
    weights = _weights()
    found = list(tokens)
    for _ in range(count):
        rows = weights["table"][found] + 0.1 * np.arange(len(found))[:, None]
        found.append(int((rows.sum(0) @ weights["head"]).argmax()))
    return found[len(tokens) :]


def test_greedy_decoding_with_a_cache_is_that_of_whole_sequences(cached: Path) -> None:
    result = generate(cached, tokens=[3, 1, 4], max_tokens=12)
    assert result.tokens == _expected([3, 1, 4], 12)
    assert result.prompt_tokens == 3
    assert result.tokens_per_second > 0
    assert result.text is None


def test_a_decoder_can_be_reset(cached: Path) -> None:
    decoder = Decoder(cached / "model.onnx")
    first = decoder.feed([5, 6])
    decoder.feed([7])
    assert decoder.length == 3
    decoder.reset()
    np.testing.assert_array_equal(decoder.feed([5, 6]), first)


def test_a_model_without_a_cache_runs_on_all_tokens(tmp_path: Path) -> None:
    text = (
        "g (int64[batch,sequence] input_ids) => (float[batch,sequence,32] logits) {"
        " e = Gather(table, input_ids)  s = CumSum(e, where)  logits = MatMul(s, head) }"
    )
    save_model(parse_model(text, _weights() | {"where": np.array(1)}), tmp_path / "m.onnx")
    result = generate(tmp_path / "m.onnx", tokens=[3, 1], max_tokens=5)
    assert "no key/value cache" in result.notes[0]
    whole = [3, 1, *result.tokens[:-1]]
    model = parse_model(text, _weights() | {"where": np.array(1)})
    logits = run(model, {"input_ids": np.array([whole])})[0][0]
    assert result.tokens == logits.argmax(-1)[1:].tolist()


def test_generation_stops_at_the_end_token_of_the_folder(cached: Path) -> None:
    expected = _expected([3, 1, 4], 12)
    (cached / "generation_config.json").write_text(json.dumps({"eos_token_id": expected[2]}))
    result = generate(cached, tokens=[3, 1, 4], max_tokens=12)
    assert result.tokens == expected[: expected.index(expected[2]) + 1]


def test_samples_follow_the_distribution_and_the_seed() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    drawn = Sampler(1.0, seed=1)
    counts = np.bincount([drawn(logits) for _ in range(4000)], minlength=4) / 4000
    np.testing.assert_allclose(counts, [0.5, 0.3, 0.15, 0.05], atol=0.03)
    few, share = Sampler(1.0, top_k=2, seed=1), Sampler(1.0, top_p=0.6, seed=1)
    assert {few(logits) for _ in range(200)} == {0, 1}
    assert {share(logits) for _ in range(200)} == {0, 1}
    again = [Sampler(1.0, seed=7)(logits) for _ in range(2)]
    assert again[0] == again[1]
    assert Sampler()(logits) == 0


def test_bytes_are_a_tokenizer_and_the_command_prints_text(cached: Path) -> None:
    done = CliRunner().invoke(
        cli,
        [
            *("generate", str(cached), "--prompt", "\x03\x01\x04", "--tokenizer", "bytes"),
            *("--max-tokens", "5", "--json"),
        ],
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert found["tokens"] == _expected([3, 1, 4], 5)
    assert found["text"] == bytes(found["tokens"]).decode()


def test_bad_input_is_one_clear_line(cached: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="needs a tokenizer"):
        generate(cached, "text")
    with pytest.raises(InvalidInputError, match="a prompt or tokens"):
        generate(cached)
    with pytest.raises(InvalidInputError, match="no tokens"):
        generate(cached, tokens=[])
    with pytest.raises(InvalidInputError, match="no such file"):
        generate(tmp_path / "nowhere", tokens=[1])
    with pytest.raises(InvalidInputError, match="top-p"):
        generate(cached, tokens=[1], top_p=0)
    image = parse_model("g (float[N,8] x) => (float[N,8] y) { y = Relu(x) }")
    save_model(image, tmp_path / "other.onnx")
    with pytest.raises(InvalidInputError, match="one input of token ids"):
        generate(tmp_path / "other.onnx", tokens=[1])
