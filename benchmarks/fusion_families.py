"""Small transformers of many families, for counting fusions in their exports.

Configurations are tiny (2 layers, 32 to 64 wide) and weights random: what is looked at is how
exporters spell attention, normalization and activation, and not what comes out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
import transformers as hf

LAYERS, WIDTH, HEADS, VOCABULARY = 2, 64, 4, 99
# Sizes of hidden states by family.
WIDTHS = {"": WIDTH, "minilm": 48}
Shape = tuple[int | str, ...]

_TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS, "intermediate_size": 2 * WIDTH, "max_position_embeddings": 64,
}  # fmt: skip
_IDS: Shape = ("batch", "sequence")


@dataclasses.dataclass(frozen=True)
class Family:
    """One architecture.

    Attributes:
        name: Part of the file name.
        model: The model, given the attention implementation.
        inputs: Keyword of `forward` -> shape; with "ids" in the name integers are drawn.
        output: The field of the model's output that is the graph's output.
        attentions: Attention blocks in it.
        norms: Normalizations in it.
        activations: Activations of the Gelu family in it.
        key_heads: Key heads of a decoder with a cache; 0 for models without one.
        head_size: Width of a head of such a decoder.
        ort_type: The model type by which ONNX Runtime's transformer optimizer knows it.
        optimum: The task by which optimum exports it, and which of the files it then is.
        whole: The model that optimum wants instead, if it takes no part of one.
    """

    name: str
    model: Callable[[str], Any]
    inputs: dict[str, Shape]
    output: str
    attentions: int
    norms: int
    activations: int = LAYERS
    key_heads: int = 0
    head_size: int = WIDTH // HEADS
    ort_type: str = "bert"
    optimum: tuple[str, str] = ("feature-extraction", "model.onnx")
    whole: Callable[[str], Any] | None = None


def _of(model_class: Any, config_class: Any, **options: Any) -> Callable[[str], Any]:
    def make(attention: str) -> Any:
        torch.manual_seed(0)
        config = config_class(**options, attn_implementation=attention)
        return model_class(config).eval()

    return make


_ENCODER: dict[str, Shape] = {"input_ids": _IDS, "attention_mask": _IDS}
_DECODER: dict[str, Shape] = {
    "input_ids": _IDS,
    "attention_mask": ("batch", "past + sequence"),
    "position_ids": _IDS,
}
_IMAGE: dict[str, Shape] = {"pixel_values": ("batch", 3, 32, 32)}
_SEQ2SEQ = {
    "vocab_size": VOCABULARY, "d_model": WIDTH, "encoder_layers": LAYERS,
    "decoder_layers": LAYERS, "encoder_attention_heads": HEADS, "decoder_attention_heads": HEADS,
    "encoder_ffn_dim": 2 * WIDTH, "decoder_ffn_dim": 2 * WIDTH, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip
_WHISPER = {
    **_SEQ2SEQ, "num_mel_bins": 16, "max_source_positions": 8, "max_target_positions": 64,
    "suppress_tokens": None, "begin_suppress_tokens": None,
}  # fmt: skip
_GROUPED = {**_TEXT, "num_key_value_heads": 2}


def _whisper(attention: str) -> Any:
    options = {**_WHISPER, "max_source_positions": 1500}  # 30 s of sound, optimum's example
    return _of(hf.WhisperForConditionalGeneration, hf.WhisperConfig, **options)(attention)


def _whisper_encoder(attention: str) -> Any:
    return _of(hf.WhisperModel, hf.WhisperConfig, **_WHISPER)(attention).encoder


def _whisper_decoder(attention: str) -> Any:
    return _of(hf.WhisperModel, hf.WhisperConfig, **_WHISPER)(attention).decoder


def _t5(attention: str) -> Any:
    return _of(
        hf.T5Model, hf.T5Config, vocab_size=VOCABULARY, d_model=WIDTH, d_kv=16, d_ff=2 * WIDTH,
        num_layers=LAYERS, num_heads=HEADS, use_cache=False, decoder_start_token_id=0,
    )(attention)  # fmt: skip


_CAUSAL = ("logits", LAYERS, 2 * LAYERS + 1)
_SPEECH = "automatic-speech-recognition-with-past"
# ONNX Runtime's own scripts take the type gpt2 for decoders that have none.
_GPT: dict[str, Any] = {
    "ort_type": "gpt2", "optimum": ("text-generation-with-past", "model.onnx"),
}  # fmt: skip
FAMILIES = (
    Family("bert", _of(hf.BertModel, hf.BertConfig, **_TEXT),
           {**_ENCODER, "token_type_ids": _IDS}, "last_hidden_state", LAYERS, 2 * LAYERS + 1),
    Family("minilm", _of(hf.BertModel, hf.BertConfig, **{**_TEXT, "hidden_size": WIDTHS["minilm"]}),
           {**_ENCODER, "token_type_ids": _IDS}, "last_hidden_state", LAYERS, 2 * LAYERS + 1),
    Family("roberta", _of(hf.RobertaModel, hf.RobertaConfig, **_TEXT), _ENCODER,
           "last_hidden_state", LAYERS, 2 * LAYERS + 1),
    Family("distilbert",
           _of(hf.DistilBertModel, hf.DistilBertConfig, vocab_size=VOCABULARY, dim=WIDTH,
               n_layers=LAYERS, n_heads=HEADS, hidden_dim=2 * WIDTH, max_position_embeddings=64),
           _ENCODER, "last_hidden_state", LAYERS, 2 * LAYERS + 1),
    Family("vit", _of(hf.ViTModel, hf.ViTConfig, hidden_size=WIDTH, num_hidden_layers=LAYERS,
                      num_attention_heads=HEADS, intermediate_size=2 * WIDTH, image_size=32,
                      patch_size=8),
           _IMAGE, "last_hidden_state", LAYERS, 2 * LAYERS + 1, ort_type="vit"),
    Family("swin", _of(hf.SwinModel, hf.SwinConfig, image_size=32, patch_size=2, embed_dim=16,
                       depths=[2, 2], num_heads=[2, 4], window_size=4),
           _IMAGE, "last_hidden_state", 4, 8 + 3, 4, ort_type="swin"),
    Family("clip_text", _of(hf.CLIPTextModel, hf.CLIPTextConfig,
                            **_TEXT, eos_token_id=2, bos_token_id=1),
           _ENCODER, "last_hidden_state", LAYERS, 2 * LAYERS + 1, ort_type="clip"),
    Family("clip_vision", _of(hf.CLIPVisionModel, hf.CLIPVisionConfig, hidden_size=WIDTH,
                              num_hidden_layers=LAYERS, num_attention_heads=HEADS,
                              intermediate_size=2 * WIDTH, image_size=32, patch_size=8),
           _IMAGE, "pooler_output", LAYERS, 2 * LAYERS + 2, ort_type="clip"),
    Family("whisper_encoder", _whisper_encoder, {"input_features": ("batch", 16, 16)},
           "last_hidden_state", LAYERS, 2 * LAYERS + 1, LAYERS + 2, ort_type="bart",
           optimum=(_SPEECH, "encoder_model.onnx"), whole=_whisper),
    Family("whisper_decoder", _whisper_decoder,
           {"input_ids": _IDS, "encoder_hidden_states": ("batch", 8, WIDTH)},
           "last_hidden_state", 2 * LAYERS, 3 * LAYERS + 1, ort_type="bart",
           optimum=(_SPEECH, "decoder_model.onnx"), whole=_whisper),
    Family("t5", _t5, {**_ENCODER, "decoder_input_ids": _IDS}, "last_hidden_state",
           3 * LAYERS, 5 * LAYERS + 2, 0, ort_type="t5"),
    Family("bart", _of(hf.BartModel, hf.BartConfig, **_SEQ2SEQ, use_cache=False),
           {**_ENCODER, "decoder_input_ids": _IDS}, "last_hidden_state",
           3 * LAYERS, 5 * LAYERS + 2, 2 * LAYERS, ort_type="bart"),
    Family("gpt2", _of(hf.GPT2LMHeadModel, hf.GPT2Config, vocab_size=VOCABULARY, n_embd=WIDTH,
                       n_layer=LAYERS, n_head=HEADS, n_positions=64),
           _DECODER, *_CAUSAL, key_heads=HEADS, **_GPT),
    Family("llama", _of(hf.LlamaForCausalLM, hf.LlamaConfig, **_GROUPED), _DECODER, *_CAUSAL, 0,
           key_heads=2, **_GPT),
    Family("qwen2", _of(hf.Qwen2ForCausalLM, hf.Qwen2Config, **_GROUPED), _DECODER, *_CAUSAL, 0,
           key_heads=2, **_GPT),
    Family("qwen3", _of(hf.Qwen3ForCausalLM, hf.Qwen3Config, **_GROUPED, head_dim=16), _DECODER,
           "logits", LAYERS, 4 * LAYERS + 1, 0, key_heads=2, **{**_GPT, "ort_type": "qwen3"}),
    Family("mistral", _of(hf.MistralForCausalLM, hf.MistralConfig, **_GROUPED, head_dim=16,
                          sliding_window=None),
           _DECODER, *_CAUSAL, 0, key_heads=2, **_GPT),
    Family("gemma", _of(hf.GemmaForCausalLM, hf.GemmaConfig, **_GROUPED, head_dim=16), _DECODER,
           *_CAUSAL, LAYERS, key_heads=2, **_GPT),
    Family("gemma2", _of(hf.Gemma2ForCausalLM, hf.Gemma2Config, **_GROUPED, head_dim=16,
                         sliding_window=32),
           _DECODER, "logits", LAYERS, 4 * LAYERS + 1, LAYERS, key_heads=2, **_GPT),
    Family("phi", _of(hf.PhiForCausalLM, hf.PhiConfig, **_TEXT, partial_rotary_factor=0.5),
           _DECODER, "logits", LAYERS, LAYERS + 1, LAYERS, key_heads=HEADS,
           **{**_GPT, "ort_type": "phi"}),
    Family("phi3", _of(hf.Phi3ForCausalLM, hf.Phi3Config, **_GROUPED, pad_token_id=0), _DECODER,
           *_CAUSAL, 0, key_heads=2, **_GPT),
)  # fmt: skip
