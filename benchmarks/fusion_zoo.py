"""Small transformers of many families, exported by both of torch's exporters, to count fusions in.

    python benchmarks/fusion_zoo.py FOLDER [NAME ...]

Configurations are tiny (2 layers, 32 to 64 wide) and weights random: what is looked at is how the
exporters spell attention, normalization and activation, and not what comes out. Every family comes
with both attention implementations of transformers, eager and SDPA, where both exist. Files are
named FAMILY.EXPORTER.ATTENTION.onnx; an export that fails leaves a .failed file with the reason.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf

LAYERS, WIDTH, HEADS, VOCABULARY = 2, 64, 4, 99
BATCH, SEQUENCE, PAST = 2, 6, 5
Shape = tuple[int | str, ...]

_TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS, "intermediate_size": 2 * WIDTH, "max_position_embeddings": 64,
}  # fmt: skip
_IDS: Shape = ("batch", "sequence")
_SIZES = {"batch": BATCH, "sequence": SEQUENCE, "past": PAST, "past + sequence": PAST + SEQUENCE}


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


class _Encoder(torch.nn.Module):
    def __init__(self, encoder: Any, keyword: str) -> None:
        super().__init__()
        self.encoder, self.keyword = encoder, keyword

    def forward(self, **inputs: Any) -> Any:
        return self.encoder(**inputs)


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
FAMILIES = (
    Family("bert", _of(hf.BertModel, hf.BertConfig, **_TEXT),
           {**_ENCODER, "token_type_ids": _IDS}, "last_hidden_state", LAYERS, 2 * LAYERS + 1),
    Family("minilm", _of(hf.BertModel, hf.BertConfig, **{**_TEXT, "hidden_size": 48}),
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
           _IMAGE, "last_hidden_state", LAYERS, 2 * LAYERS + 1),
    Family("swin", _of(hf.SwinModel, hf.SwinConfig, image_size=32, patch_size=2, embed_dim=16,
                       depths=[2, 2], num_heads=[2, 4], window_size=4),
           _IMAGE, "last_hidden_state", 4, 8 + 3, 4),
    Family("clip_text", _of(hf.CLIPTextModel, hf.CLIPTextConfig,
                            **_TEXT, eos_token_id=2, bos_token_id=1),
           _ENCODER, "last_hidden_state", LAYERS, 2 * LAYERS + 1),
    Family("clip_vision", _of(hf.CLIPVisionModel, hf.CLIPVisionConfig, hidden_size=WIDTH,
                              num_hidden_layers=LAYERS, num_attention_heads=HEADS,
                              intermediate_size=2 * WIDTH, image_size=32, patch_size=8),
           _IMAGE, "last_hidden_state", LAYERS, 2 * LAYERS + 1),
    Family("whisper_encoder", _whisper_encoder, {"input_features": ("batch", 16, 16)},
           "last_hidden_state", LAYERS, 2 * LAYERS + 1, LAYERS + 2),
    Family("whisper_decoder", _whisper_decoder,
           {"input_ids": _IDS, "encoder_hidden_states": ("batch", 8, WIDTH)},
           "last_hidden_state", 2 * LAYERS, 3 * LAYERS + 1),
    Family("t5", _t5, {**_ENCODER, "decoder_input_ids": _IDS}, "last_hidden_state",
           3 * LAYERS, 5 * LAYERS + 2, 0),
    Family("bart", _of(hf.BartModel, hf.BartConfig, **_SEQ2SEQ, use_cache=False),
           {**_ENCODER, "decoder_input_ids": _IDS}, "last_hidden_state",
           3 * LAYERS, 5 * LAYERS + 2, 2 * LAYERS),
    Family("gpt2", _of(hf.GPT2LMHeadModel, hf.GPT2Config, vocab_size=VOCABULARY, n_embd=WIDTH,
                       n_layer=LAYERS, n_head=HEADS, n_positions=64),
           _DECODER, *_CAUSAL, key_heads=HEADS),
    Family("llama", _of(hf.LlamaForCausalLM, hf.LlamaConfig, **_GROUPED), _DECODER, *_CAUSAL, 0,
           key_heads=2),
    Family("qwen2", _of(hf.Qwen2ForCausalLM, hf.Qwen2Config, **_GROUPED), _DECODER, *_CAUSAL, 0,
           key_heads=2),
    Family("qwen3", _of(hf.Qwen3ForCausalLM, hf.Qwen3Config, **_GROUPED, head_dim=16), _DECODER,
           "logits", LAYERS, 4 * LAYERS + 1, 0, key_heads=2),
    Family("mistral", _of(hf.MistralForCausalLM, hf.MistralConfig, **_GROUPED, head_dim=16,
                          sliding_window=None),
           _DECODER, *_CAUSAL, 0, key_heads=2),
    Family("gemma", _of(hf.GemmaForCausalLM, hf.GemmaConfig, **_GROUPED, head_dim=16), _DECODER,
           *_CAUSAL, LAYERS, key_heads=2),
    Family("gemma2", _of(hf.Gemma2ForCausalLM, hf.Gemma2Config, **_GROUPED, head_dim=16,
                         sliding_window=32),
           _DECODER, "logits", LAYERS, 4 * LAYERS + 1, LAYERS, key_heads=2),
    Family("phi", _of(hf.PhiForCausalLM, hf.PhiConfig, **_TEXT, partial_rotary_factor=0.5),
           _DECODER, "logits", LAYERS, LAYERS + 1, LAYERS, key_heads=HEADS),
    Family("phi3", _of(hf.Phi3ForCausalLM, hf.Phi3Config, **_GROUPED, pad_token_id=0), _DECODER,
           *_CAUSAL, 0, key_heads=2),
)  # fmt: skip


class _Positional(torch.nn.Module):
    """A model with plain tensors as arguments and results."""

    def __init__(self, family: Family, attention: str) -> None:
        super().__init__()
        self.model = family.model(attention)
        self.names, self.output = tuple(family.inputs), family.output
        self.cached = bool(family.key_heads)

    def forward(self, tensors: Any, past: Any) -> Any:
        keywords = dict(zip(self.names, tensors, strict=True))
        if not self.cached:
            return getattr(self.model(**keywords, return_dict=True), self.output)
        pairs = tuple(zip(past[::2], past[1::2], strict=True))
        result = self.model(
            **keywords, past_key_values=hf.DynamicCache.from_legacy_cache(pairs), use_cache=True
        )
        present = result.past_key_values.to_legacy_cache()
        return (result.logits, *(tensor for pair in present for tensor in pair))


def _flat(module: torch.nn.Module, count: int) -> torch.nn.Module:
    """With the arguments in one row, as both exporters want them."""

    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, *tensors: Any) -> Any:
            return self.inner(tensors[:count], tensors[count:])

    return Flat().eval()


def export(family: Family, exporter: str, attention: str, path: Path) -> None:
    """Writes one model.

    Args:
        family: The architecture.
        exporter: "ts" for the TorchScript exporter, "dynamo" for that based on torch.export.
        attention: "eager" or "sdpa".
        path: The file.
    """
    past: dict[str, Shape] = {}
    outputs: dict[str, Shape] = {family.output: ("batch", "sequence", "width")}
    if family.key_heads:
        for layer in range(LAYERS):
            for part in ("key", "value"):
                entry = f"{layer}.{part}"
                shape = ("batch", family.key_heads, "past", family.head_size)
                past[f"past_key_values.{entry}"] = shape
                outputs[f"present.{entry}"] = (*shape[:2], "past + sequence", shape[3])
    if "pixel_values" in family.inputs:
        outputs = {family.output: ("batch", "places", "width")}
    inputs = family.inputs | past
    tensors = tuple(_example(name, shape) for name, shape in inputs.items())
    module = _flat(_Positional(family, attention), len(family.inputs))
    axes = {
        name: {axis: size for axis, size in enumerate(shape) if isinstance(size, str)}
        for name, shape in inputs.items()
    }
    options: dict[str, Any]
    if exporter == "ts":
        axes |= {
            name: {axis: size for axis, size in enumerate(shape) if isinstance(size, str)}
            for name, shape in outputs.items()
        }
        options = {"dynamo": False, "dynamic_axes": axes, "opset_version": 17}
    else:
        shapes = tuple(axes[name] for name in inputs)
        options = {"dynamo": True, "dynamic_shapes": (shapes,), "opset_version": 18,
                   "optimize": False, "external_data": False, "verbose": False}  # fmt: skip
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        torch.no_grad(),
    ):
        warnings.simplefilter("ignore")
        torch.onnx.export(module, tensors, path, input_names=list(inputs),
                          output_names=list(outputs), **options)  # fmt: skip


def _example(name: str, shape: Shape) -> torch.Tensor:
    sizes = [_SIZES[size] if isinstance(size, str) else size for size in shape]
    if name == "attention_mask":
        return torch.ones(sizes, dtype=torch.int64)
    if name == "position_ids":
        return torch.arange(PAST, PAST + SEQUENCE).expand(sizes).contiguous()
    if name == "token_type_ids":
        return torch.zeros(sizes, dtype=torch.int64)
    if "ids" in name:
        return torch.randint(3, VOCABULARY, sizes)
    return torch.randn(sizes)


@contextlib.contextmanager
def masks_without_vmap() -> Any:
    """The TorchScript tracer stops at the masks that transformers makes through `torch.vmap`."""
    from transformers.integrations.executorch import sdpa_mask_without_vmap
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask

    saved = {name: ALL_MASK_ATTENTION_FUNCTIONS[name] for name in ("sdpa", "eager")}

    def eager(*args: Any, dtype: Any = torch.float32, **keywords: Any) -> Any:
        keywords |= {"allow_is_causal_skip": False, "allow_torch_fix": False}
        mask = sdpa_mask_without_vmap(*args, **keywords)
        low = torch.finfo(dtype).min
        return torch.where(mask, torch.tensor(0.0, dtype=dtype), low)

    ALL_MASK_ATTENTION_FUNCTIONS.register("sdpa", sdpa_mask_without_vmap)
    ALL_MASK_ATTENTION_FUNCTIONS.register("eager", eager)
    assert eager_mask is saved["eager"]
    try:
        yield
    finally:
        for name, function in saved.items():
            ALL_MASK_ATTENTION_FUNCTIONS.register(name, function)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for family in FAMILIES:
        if arguments.names and family.name not in arguments.names:
            continue
        for exporter in ("ts", "dynamo"):
            for attention in ("sdpa", "eager"):
                path = arguments.folder / f"{family.name}.{exporter}.{attention}.onnx"
                failed = path.with_suffix(".failed")
                if path.exists() or failed.exists():
                    continue
                guard = masks_without_vmap() if exporter == "ts" else contextlib.nullcontext()
                try:
                    with guard:
                        export(family, exporter, attention, path)
                    print(path.name, "ok", flush=True)
                except (
                    RuntimeError,
                    ValueError,
                    TypeError,
                    AttributeError,
                    KeyError,
                    IndexError,
                    AssertionError,
                    torch.onnx.errors.OnnxExporterError,
                ) as error:
                    failed.write_text(f"{type(error).__name__}: {error}"[:2000], encoding="utf-8")
                    print(path.name, "failed", str(error)[:150].replace("\n", " "), flush=True)


if __name__ == "__main__":
    main()
