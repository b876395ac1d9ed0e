"""A Llama decoder of 168M parameters with grouped-query attention and a key/value cache.

One graph serves the prompt (past of length 0) and decoding (sequence of length 1): the past keys
and values are inputs, and outputs with the new ones appended. The causal mask is the one that
transformers offers for exports, since the TorchScript exporter stops at the default one, which
uses `torch.vmap`, with `RuntimeError: unordered_map::at`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporting import DYNAMO, TORCHSCRIPT, Exporter
from spec import Input, ModelSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

LAYERS = 12
KEY_HEADS = 4
HEAD_SIZE = 64
VOCABULARY = 32000

Outputs = dict[str, tuple[int | str, ...]]


def signature(
    layers: int, key_heads: int, head_size: int, vocabulary: int
) -> tuple[dict[str, Input], Outputs]:
    """Inputs and outputs of a decoder with a cache."""
    entries = [f"{layer}.{part}" for layer in range(layers) for part in ("key", "value")]
    inputs = {
        "input_ids": Input("int64", ("batch", "sequence"), "tokens", vocabulary),
        "attention_mask": Input("int64", ("batch", "past + sequence"), "mask"),
        "position_ids": Input("int64", ("batch", "sequence"), "positions"),
    } | {
        f"past_key_values.{entry}": Input("float32", ("batch", key_heads, "past", head_size))
        for entry in entries
    }
    outputs: Outputs = {"logits": ("batch", "sequence", vocabulary)} | {
        f"present.{entry}": ("batch", key_heads, "past + sequence", head_size) for entry in entries
    }
    return inputs, outputs


INPUTS, OUTPUTS = signature(LAYERS, KEY_HEADS, HEAD_SIZE, VOCABULARY)


def create(**options: Any) -> nn.Module:
    """An untrained decoder, with all its inputs and outputs as plain tensors.

    Args:
        options: Of `LlamaConfig`, in the place of those of the reference model.
    """
    from torch import nn
    from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM
    from transformers.integrations.executorch import sdpa_mask_without_vmap
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    attention = "sdpa_without_vmap"
    ALL_MASK_ATTENTION_FUNCTIONS.register(attention, sdpa_mask_without_vmap)
    ALL_ATTENTION_FUNCTIONS.register(attention, ALL_ATTENTION_FUNCTIONS["sdpa"])
    chosen = {
        "vocab_size": VOCABULARY,
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 16,
        "num_key_value_heads": KEY_HEADS,
        "tie_word_embeddings": True,
    } | options
    config = LlamaConfig(**chosen)
    model = LlamaForCausalLM(config)
    model.config._attn_implementation = attention

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(
            self, ids: Tensor, mask: Tensor, positions: Tensor, *past: Tensor
        ) -> tuple[Tensor, ...]:
            pairs: Any = tuple(zip(past[::2], past[1::2], strict=True))
            result = self.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=DynamicCache.from_legacy_cache(pairs),
                use_cache=True,
            )
            present = result.past_key_values.to_legacy_cache()
            return (result.logits, *(tensor for pair in present for tensor in pair))

    return Decoder().eval()


def _build(exporter: Exporter, path: Path) -> None:
    from weights import randomize

    module = create()
    randomize(module)
    exporter.export(module, INPUTS, OUTPUTS, path)


SPECS = tuple(
    ModelSpec(
        name=name,
        source="transformers Llama, seeded random weights",
        opset=exporter.opset,
        inputs=INPUTS,
        tolerance=1e-5,
        build=partial(_build, exporter),
    )
    for name, exporter in (("llama168m", TORCHSCRIPT), ("llama168m_dynamo", DYNAMO))
)
