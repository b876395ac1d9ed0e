"""The parts of models that generate: keys and values of the past are inputs and outputs."""

from __future__ import annotations

import inspect
from typing import Any

from onnxopt.core.errors import InvalidInputError
from onnxopt.export.filling import normal, ones, padding_mask, positions_of, tokens
from onnxopt.export.parts import Case, Filling, Input, Part

_TOTAL = "past + sequence"
# Prompt without a past, one new token, several at once; padding where there is none yet.
_CASES = (
    Case({"batch": 2, "sequence": 3, "past": 4}),
    Case({"batch": 3, "sequence": 5, "past": 0}, ragged=True, seed=1),
    Case({"batch": 1, "sequence": 1, "past": 7}, seed=2),
    Case({"batch": 2, "sequence": 1, "past": 1}, seed=3),
)


def decoder_part(model: Any) -> Part:
    """The one graph of a decoder: prompt with a past of length 0, then token by token."""
    from onnxopt.export.wrappers import CachedDecoder

    config = model.config.get_text_config()
    parameters = inspect.signature(model.forward).parameters
    inputs = [
        Input("input_ids", ("batch", "sequence"), tokens(config.vocab_size)),
        Input("attention_mask", ("batch", _TOTAL), padding_mask(left=True)),
    ]
    if "position_ids" in parameters:
        inputs.append(Input("position_ids", ("batch", "sequence"), positions_of("attention_mask")))
    names = [one.name for one in inputs]
    layers = _layers(model, names)
    past = [
        Input(f"past_key_values.{index}.{kind}", ("batch", shape[1], "past", shape[3]), normal)
        for index, pair in enumerate(layers)
        for kind, shape in zip(("key", "value"), pair, strict=True)
    ]
    outputs = ["logits"] + [one.name.replace("past_key_values", "present") for one in past]
    module = CachedDecoder(model, names).eval()
    return Part("model", module, (*inputs, *past), tuple(outputs), _CASES, mask="attention_mask")


def _layers(model: Any, names: list[str]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Shapes of key and value of every layer."""
    import torch
    from transformers.cache_utils import DynamicCache, DynamicLayer

    ids = torch.ones((1, 2), dtype=torch.int64)
    with torch.no_grad():
        cache = model(input_ids=ids, use_cache=True, return_dict=True).past_key_values
    layers = getattr(cache, "layers", None)
    if not isinstance(cache, DynamicCache) or not layers:
        raise InvalidInputError(
            f"{type(model).__name__} keeps its past in a {type(cache).__name__}, not as keys and "
            "values of every layer: it cannot be exported with a past"
        )
    odd = [layer for layer in layers if not isinstance(layer, DynamicLayer)]
    if odd or any(layer.keys.ndim != 4 for layer in layers):
        raise InvalidInputError(
            f"{type(model).__name__} has layers that keep something else than keys and values of "
            "shape [batch, heads, sequence, size]: it cannot be exported with a past"
        )
    return [(tuple(layer.keys.shape), tuple(layer.values.shape)) for layer in layers]


def seq2seq_parts(model: Any, main: Input) -> list[Part]:
    """Encoder and decoder of an encoder-decoder model.

    The encoder also gives the keys and values of cross-attention, which depend on nothing else;
    the decoder takes them, so that it serves the first token and all others in one graph.
    """
    import torch

    from onnxopt.export.wrappers import CachedCrossDecoder, EncoderWithKeys

    config = model.config
    source = "encoder_sequence"
    fixed = all(not isinstance(dim, str) or dim == "batch" for dim in main.shape)
    if main.name == "input_ids":
        main = Input("input_ids", ("batch", source), main.fill)
    masked = main.name == "input_ids"
    mask = Input("attention_mask", ("batch", source), padding_mask(left=False))
    encoder_cases = tuple(
        Case({"batch": batch} if fixed else {"batch": batch, source: length}, ragged, seed)
        for batch, length, ragged, seed in ((2, 7, False, 0), (1, 5, False, 1), (3, 11, True, 2))
    )
    encoder_inputs = (main, mask) if masked else (main,)
    encoder = EncoderWithKeys(model, main.name, masked).eval()
    probe = Part("encoder_model", encoder, encoder_inputs, (), encoder_cases)
    with torch.no_grad():
        hidden, *keys = encoder(*probe.make(encoder_cases[0]).values())
    layers = len(keys) // 2
    kinds = [(layer, kind) for layer in range(layers) for kind in ("key", "value")]
    outputs = ["last_hidden_state", *(f"present.{n}.encoder.{kind}" for n, kind in kinds)]
    length = keys[0].shape[2] if fixed else source
    cross = [
        Input(
            f"past_key_values.{n}.encoder.{kind}",
            ("batch", key.shape[1], length, key.shape[3]),
            normal,
        )
        for (n, kind), key in zip(kinds, keys, strict=True)
    ]
    # Self-attention has the heads of cross-attention in every model of this kind.
    own = [
        Input(
            f"past_key_values.{n}.decoder.{kind}",
            ("batch", key.shape[1], "past", key.shape[3]),
            normal,
        )
        for (n, kind), key in zip(kinds, keys, strict=True)
    ]
    ids = Input("input_ids", ("batch", "sequence"), _decoder_tokens(config))
    encoder_mask = Input("encoder_attention_mask", ("batch", source), _mask_filling(masked))
    decoder = CachedCrossDecoder(model, layers, masked, hidden.shape[-1]).eval()
    return [
        Part(
            "encoder_model",
            encoder,
            encoder_inputs,
            tuple(outputs),
            encoder_cases,
            mask="attention_mask" if masked else "",
        ),
        Part(
            "decoder_model",
            decoder,
            (ids, *((encoder_mask,) if masked else ()), *own, *cross),
            ("logits", *(f"present.{n}.decoder.{kind}" for n, kind in kinds)),
            tuple(_with_source(case, None if fixed else source) for case in _CASES),
        ),
    ]


def _mask_filling(masked: bool) -> Filling:
    return padding_mask(left=False) if masked else ones


def _decoder_tokens(config: Any) -> Filling:
    return tokens(config.get_text_config(decoder=True).vocab_size)


def _with_source(case: Case, source: str | None) -> Case:
    if source is None:
        return case
    return Case({**case.sizes, source: 5 + 2 * case.seed}, case.ragged, case.seed)
