"""Modules that give a transformers model flat inputs and outputs: tensors by position, a tuple.

This module needs torch and transformers; it is imported when a model is there to be wrapped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from transformers.cache_utils import DynamicCache, DynamicLayer, EncoderDecoderCache

from onnxopt.export.parts import Tensor


class Flat(nn.Module):
    """A model without a cache.

    Args:
        model: The transformers model.
        inputs: Keywords of its `forward`, in the order of the inputs.
        outputs: Fields of its output, in the order of the outputs.
        options: Further arguments of `forward`.
    """

    def __init__(
        self, model: Any, inputs: Sequence[str], outputs: Sequence[str], options: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.model = model
        self.names, self.outputs, self.options = tuple(inputs), tuple(outputs), dict(options)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Runs the model."""
        keywords = dict(zip(self.names, tensors, strict=True))
        result = self.model(**keywords, **self.options, return_dict=True)
        return tuple(result[name] for name in self.outputs)


class CachedDecoder(nn.Module):
    """A decoder whose past keys and values are inputs, and outputs with the new ones appended.

    Args:
        model: A causal language model.
        inputs: Keywords of its `forward` that come before the past.
    """

    def __init__(self, model: Any, inputs: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.names = tuple(inputs)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Logits, then key and value of every layer."""
        count = len(self.names)
        keywords = dict(zip(self.names, tensors[:count], strict=True))
        cache = cache_of(tensors[count:])
        result = self.model(**keywords, past_key_values=cache, use_cache=True, return_dict=True)
        return (result.logits, *tensors_of(cache))


class EncoderWithKeys(nn.Module):
    """An encoder that also computes the decoder's cross-attention keys and values.

    The decoder is run on one token for them; all of that run but the projections is dead code,
    which the exporters drop.

    Args:
        model: An encoder-decoder model.
        main: Name of the main input.
        masked: It takes an attention mask as the second input.
    """

    def __init__(self, model: Any, main: str, masked: bool) -> None:
        super().__init__()
        self.model = model
        self.main, self.masked = main, masked

    def forward(self, main: Tensor, *mask: Tensor) -> tuple[Tensor, ...]:
        """Last hidden state, then key and value of every decoder layer."""
        keywords = {self.main: main}
        if self.masked:
            keywords["attention_mask"] = mask[0]
        hidden = self.model.get_encoder()(**keywords, return_dict=True).last_hidden_state
        start = hidden.new_zeros((hidden.shape[0], 1)).long()
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self.model(
            encoder_outputs=(hidden,),
            decoder_input_ids=start,
            past_key_values=cache,
            use_cache=True,
            return_dict=True,
        )
        return (hidden, *tensors_of(cache.cross_attention_cache))


class CachedCrossDecoder(nn.Module):
    """The decoder of an encoder-decoder model; reads what `EncoderWithKeys` computed.

    Args:
        model: An encoder-decoder model.
        layers: Number of decoder layers.
        masked: It takes the encoder's attention mask as the second input.
        hidden: Size of the encoder's hidden states.
    """

    def __init__(self, model: Any, layers: int, masked: bool, hidden: int) -> None:
        super().__init__()
        self.model = model
        self.layers, self.masked, self.hidden = layers, masked, hidden

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Logits, then key and value of every layer's self-attention."""
        ids, rest = tensors[0], tensors[1:]
        mask, rest = (rest[0], rest[1:]) if self.masked else (None, rest)
        own, cross = rest[: 2 * self.layers], rest[2 * self.layers :]
        cache = EncoderDecoderCache(cache_of(own), cache_of(cross))
        cache.is_updated = dict.fromkeys(range(self.layers), True)
        # Nothing reads the hidden states but their shape, since the keys are there.
        shape = (ids.shape[0], cross[0].shape[2], self.hidden)
        keywords = {} if mask is None else {"attention_mask": mask}
        result = self.model(
            encoder_outputs=(cross[0].new_zeros(shape),),
            decoder_input_ids=ids,
            past_key_values=cache,
            use_cache=True,
            return_dict=True,
            **keywords,
        )
        return (result.logits, *tensors_of(cache.self_attention_cache))


def cache_of(tensors: Sequence[Tensor]) -> Any:
    """A cache of keys and values, which alternate."""
    cache = DynamicCache()
    cache.layers = []
    for key, value in zip(tensors[::2], tensors[1::2], strict=True):
        layer = DynamicLayer()
        layer.keys, layer.values = key, value
        layer.dtype, layer.device = key.dtype, key.device
        layer.is_initialized = True
        cache.layers.append(layer)
    return cache


def tensors_of(cache: Any) -> list[Tensor]:
    """Keys and values of all layers of a cache."""
    return [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
