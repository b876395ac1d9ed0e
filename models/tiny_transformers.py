"""Small transformers models with seeded random weights, one per architecture, to export.

Sizes are small and odd on purpose: axes of different meaning have different sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_TEXT = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 37,
}
_DECODER = _TEXT | {"num_key_value_heads": 2, "max_position_embeddings": 128}
# Gemma and Phi have a padding token beyond so small a vocabulary.
_UNPADDED = _DECODER | {"pad_token_id": None}
_VISION = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 37,
}
_SEQ2SEQ = {
    "vocab_size": 99,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 37,
    "decoder_ffn_dim": 37,
}

# Name -> configuration class, its arguments, model class.
_MODELS: Mapping[str, tuple[str, dict[str, Any], str]] = {
    "BERT": ("BertConfig", _TEXT, "BertModel"),
    "BERT, masked tokens": ("BertConfig", _TEXT, "BertForMaskedLM"),
    "RoBERTa": (
        "RobertaConfig",
        _TEXT | {"type_vocab_size": 1},
        "RobertaForSequenceClassification",
    ),
    "DistilBERT": (
        "DistilBertConfig",
        {"vocab_size": 99, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 37},
        "DistilBertForQuestionAnswering",
    ),
    "DeBERTa-v2": (
        "DebertaV2Config",
        _TEXT | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
        "DebertaV2ForTokenClassification",
    ),
    "MPNet": ("MPNetConfig", _TEXT, "MPNetModel"),
    "ELECTRA": ("ElectraConfig", _TEXT | {"embedding_size": 16}, "ElectraForTokenClassification"),
    "ALBERT": ("AlbertConfig", _TEXT | {"embedding_size": 16}, "AlbertForSequenceClassification"),
    "LayoutLM": ("LayoutLMConfig", _TEXT, "LayoutLMForTokenClassification"),
    "ModernBERT": ("ModernBertConfig", _TEXT | _UNPADDED | {"pad_token_id": 0}, "ModernBertModel"),
    "T5": (
        "T5Config",
        {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 37, "num_layers": 2, "num_heads": 4},
        "T5ForConditionalGeneration",
    ),
    "BART": ("BartConfig", _SEQ2SEQ, "BartForConditionalGeneration"),
    "Marian": (
        "MarianConfig",
        _SEQ2SEQ
        | {"pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0}
        | {"forced_eos_token_id": 2},
        "MarianMTModel",
    ),
    "Whisper": (
        "WhisperConfig",
        _SEQ2SEQ
        | {"num_mel_bins": 16, "max_source_positions": 30, "pad_token_id": 0}
        | {"bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 3},
        "WhisperForConditionalGeneration",
    ),
    "GPT-2": (
        "GPT2Config",
        {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4},
        "GPT2LMHeadModel",
    ),
    "Llama": ("LlamaConfig", _DECODER, "LlamaForCausalLM"),
    "Qwen2": ("Qwen2Config", _DECODER, "Qwen2ForCausalLM"),
    "Qwen3": ("Qwen3Config", _DECODER | {"head_dim": 8}, "Qwen3ForCausalLM"),
    "Gemma": ("GemmaConfig", _UNPADDED | {"head_dim": 8}, "GemmaForCausalLM"),
    "Gemma 3": (
        "Gemma3TextConfig",
        _UNPADDED | {"head_dim": 8, "sliding_window": 4},
        "Gemma3ForCausalLM",
    ),
    "Phi": ("PhiConfig", _UNPADDED, "PhiForCausalLM"),
    "Phi-3": ("Phi3Config", _UNPADDED, "Phi3ForCausalLM"),
    "Mistral": ("MistralConfig", _DECODER | {"sliding_window": 6}, "MistralForCausalLM"),
    "OPT": (
        "OPTConfig",
        {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
        | {"ffn_dim": 37, "word_embed_proj_dim": 32, "max_position_embeddings": 64},
        "OPTForCausalLM",
    ),
    "Bloom": (
        "BloomConfig",
        {"vocab_size": 99, "hidden_size": 32, "n_layer": 2, "n_head": 4},
        "BloomForCausalLM",
    ),
    "Falcon": (
        "FalconConfig",
        {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
        "FalconForCausalLM",
    ),
    "ViT": ("ViTConfig", _VISION, "ViTForImageClassification"),
    "BEiT": ("BeitConfig", _VISION, "BeitForImageClassification"),
    "DINOv2": ("Dinov2Config", _VISION, "Dinov2Model"),
    "Swin": (
        "SwinConfig",
        {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [1, 2], "num_heads": [2, 2]}
        | {"window_size": 4},
        "SwinForImageClassification",
    ),
    "ConvNeXt": (
        "ConvNextConfig",
        {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]},
        "ConvNextForImageClassification",
    ),
    "ResNet": (
        "ResNetConfig",
        {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]},
        "ResNetForImageClassification",
    ),
    "MobileNetV2": (
        "MobileNetV2Config",
        {"depth_multiplier": 0.25, "image_size": 64},
        "MobileNetV2ForImageClassification",
    ),
    "VideoMAE": (
        "VideoMAEConfig",
        _VISION | {"num_frames": 4, "tubelet_size": 2},
        "VideoMAEForVideoClassification",
    ),
    "YOLOS": ("YolosConfig", _VISION | {"image_size": [32, 48]}, "YolosForObjectDetection"),
    "SegFormer": (
        "SegformerConfig",
        {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "decoder_hidden_size": 16}
        | {"num_attention_heads": [1, 2, 2, 2]},
        "SegformerForSemanticSegmentation",
    ),
    "CLIP": (
        "CLIPConfig",
        {
            "text_config": _TEXT | {"max_position_embeddings": 16, "eos_token_id": 2},
            "vision_config": _VISION,
            "projection_dim": 16,
        },
        "CLIPModel",
    ),
    "wav2vec2": (
        "Wav2Vec2Config",
        _TEXT
        | {"conv_dim": [16, 16, 16], "conv_stride": [5, 4, 4], "conv_kernel": [10, 8, 8]}
        | {"num_feat_extract_layers": 3, "num_conv_pos_embeddings": 16}
        | {"num_conv_pos_embedding_groups": 2},
        "Wav2Vec2ForCTC",
    ),
    "AST": (
        "ASTConfig",
        {k: v for k, v in _VISION.items() if k != "image_size"}
        | {"max_length": 40, "num_mel_bins": 24, "patch_size": 8},
        "ASTForAudioClassification",
    ),
}
NAMES = tuple(_MODELS)


def create(name: str, **changes: Any) -> Any:
    """A model in evaluation mode.

    Args:
        name: One of `NAMES`.
        changes: Arguments of the configuration that differ.
    """
    import torch
    import transformers

    config, arguments, model = _MODELS[name]
    torch.manual_seed(0)
    made = getattr(transformers, model)(getattr(transformers, config)(**{**arguments, **changes}))
    with torch.no_grad():
        # Fresh biases and norms are zeros and ones, which would hide that one of them is lost.
        for weight in made.parameters():
            weight.add_(torch.randn_like(weight) * 0.02)
    return made.eval()


def save(name: str, folder: Path, **changes: Any) -> Path:
    """Saves a model as a Hugging Face folder; returns the folder."""
    create(name, **changes).save_pretrained(folder)
    return folder
