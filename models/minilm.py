"""MiniLM-L6: a BERT encoder of 6 layers and width 384, for sentence embeddings.

The TorchScript export writes attention out as the eager implementation does, the torch.export
one starts from scaled dot product attention: two forms that a fusion has to know.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from exporting import DYNAMO, TORCHSCRIPT, Exporter
from spec import Input, ModelSpec

VOCABULARY = 30522
INPUTS = {
    "input_ids": Input("int64", ("batch", "sequence"), "tokens", VOCABULARY),
    "attention_mask": Input("int64", ("batch", "sequence"), "mask"),
    "token_type_ids": Input("int64", ("batch", "sequence"), "segments"),
}


def _build(attention: str, exporter: Exporter, path: Path) -> None:
    from transformers import BertConfig, BertModel
    from weights import randomize
    from wrapping import returning

    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        attn_implementation=attention,
    )
    module = returning(
        BertModel(config, add_pooling_layer=False), "last_hidden_state", tuple(INPUTS)
    )
    randomize(module)
    exporter.export(module, INPUTS, {"last_hidden_state": ("batch", "sequence", 384)}, path)


SPECS = tuple(
    ModelSpec(
        name=f"minilm_{exporter.suffix}",
        source="transformers BERT with the sizes of MiniLM-L6, seeded random weights",
        opset=exporter.opset,
        inputs=INPUTS,
        tolerance=1e-5,
        build=partial(_build, attention, exporter),
    )
    for attention, exporter in (("eager", TORCHSCRIPT), ("sdpa", DYNAMO))
)
