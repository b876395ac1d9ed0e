"""Exported decoders generate what PyTorch generates: one graph for the prompt and every step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.greedy import generate_onnx, generate_seq2seq

import onnxopt

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tiny_transformers import save  # noqa: E402
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM  # noqa: E402

STEPS = 64


def check_decoder(name: str, folder: Path, exporter: str, *, optimize: bool = False) -> None:
    source = save(name, folder / "source")
    result = onnxopt.export(source, folder / "out", exporter=exporter, optimize=optimize)
    assert result.files[0].inputs["past_key_values.0.key"][2] == "past"
    prompt = np.random.default_rng(0).integers(5, 99, (3, 7))
    mask = np.ones_like(prompt)
    mask[1, :3] = mask[2, :6] = 0
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    expected = model.generate(
        torch.from_numpy(prompt),
        attention_mask=torch.from_numpy(mask),
        max_new_tokens=STEPS,
        min_new_tokens=STEPS,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    tokens = generate_onnx(folder / "out", prompt, mask, STEPS)
    assert np.array_equal(tokens, expected[:, prompt.shape[1] :].numpy())
    assert len(np.unique(tokens)) > 3  # a model that repeats one token proves nothing


def test_llama_generates_the_same_tokens_when_traced(tmp_path: Path) -> None:
    check_decoder("Llama", tmp_path, "torchscript")
    # Output and input embeddings are not tied here; see the test of tied weights.
    assert (tmp_path / "out" / "generation_config.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("exporter", ["dynamo", "torchscript", "optimum"])
@pytest.mark.parametrize("name", ["Llama", "GPT-2", "Qwen2"])
def test_decoder_generates_the_same_tokens(tmp_path: Path, name: str, exporter: str) -> None:
    if exporter == "optimum":
        pytest.importorskip("optimum.exporters.onnx")
    check_decoder(name, tmp_path, exporter)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Gemma 3", "Mistral"])
def test_sliding_window_generates_the_same_tokens_beyond_it(tmp_path: Path, name: str) -> None:
    check_decoder(name, tmp_path, "torchscript", optimize=True)


@pytest.mark.slow
@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
@pytest.mark.parametrize("name", ["T5", "BART"])
def test_encoder_decoder_generates_the_same_tokens(
    tmp_path: Path, name: str, exporter: str
) -> None:
    if (name, exporter) == ("T5", "dynamo") and int(transformers.__version__.split(".")[0]) >= 5:
        pytest.skip("torch.export cannot view a transposed tensor in T5 of transformers 5")
    source = save(name, tmp_path / "source")
    onnxopt.export(source, tmp_path / "out", exporter=exporter)
    ids = np.random.default_rng(0).integers(5, 99, (2, 9))
    mask = np.ones_like(ids)
    mask[1, 5:] = 0
    model = AutoModelForSeq2SeqLM.from_pretrained(source, dtype=torch.float32).eval()
    start, tokens = torch.zeros((2, 1), dtype=torch.int64), []
    decoded = start
    with torch.no_grad():
        for _ in range(STEPS):
            logits = model(
                input_ids=torch.from_numpy(ids),
                attention_mask=torch.from_numpy(mask),
                decoder_input_ids=decoded,
                use_cache=False,
            ).logits
            tokens.append(logits[:, -1:].argmax(dim=-1))
            decoded = torch.cat([decoded, tokens[-1]], dim=1)
    found = generate_seq2seq(tmp_path / "out", {"input_ids": ids, "attention_mask": mask}, 0, STEPS)
    assert np.array_equal(found, torch.cat(tokens, dim=1).numpy())
