"""Decoding with a key/value cache: the prompt in one run, then one token at a time.

The cache never leaves ONNX Runtime's memory: the outputs of one run are bound as the inputs of the
next (IO binding), on the device that they are on. Models without a cache are run on the whole
sequence for every token.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxopt.core.errors import InvalidInputError
from onnxopt.runtime.library import CannotRunError, load_runtime, one_line, runtime_errors
from onnxopt.runtime.session import CPU, Declared, ModelSource, open_session

_NUMPY: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(int64)": np.dtype(np.int64),
    "tensor(int32)": np.dtype(np.int32),
}
_PREFIX = re.compile(r"^(past|present)(_key_values)?")
_PARTS = re.compile(r"\d+|key|value")


class Decoder:
    """A causal language model, fed token by token.

    Inputs are found by their names: `input_ids` (or the only one left), `attention_mask`,
    `position_ids`, and `past...` for the cache, whose successors are the outputs `present...`.

    Args:
        model: The model.
        threads: Threads inside an operator; ONNX Runtime's choice by default.
        provider: "cpu" or "cuda".

    Raises:
        InvalidInputError: It is no such model.
        CannotRunError: ONNX Runtime cannot load it.
    """

    def __init__(
        self, model: ModelSource, *, threads: int | None = None, provider: str = "cpu"
    ) -> None:
        providers = ("CUDAExecutionProvider", *CPU) if provider == "cuda" else CPU
        session = open_session(model, threads=threads, providers=providers)
        self._native = session.native
        self._device = provider
        self._binding: Any = None
        self._cache: dict[str, Any] = {}
        self.length = 0
        self._tokens: list[int] = []
        past = [one for one in session.inputs if one.name.startswith("past")]
        named = {one.name: one for one in session.inputs if one not in past}
        self._mask = next((n for n in named if "mask" in n), None)
        self._positions = next((n for n in named if "position" in n), None)
        rest = [n for n in named if n not in (self._mask, self._positions)]
        if len(rest) != 1 or named[rest[0]].type not in ("tensor(int64)", "tensor(int32)"):
            raise InvalidInputError(
                "generating needs a model with one input of token ids beside its mask, positions "
                f"and past; this one has {', '.join(one.name for one in session.inputs)}"
            )
        self._ids = rest[0]
        self._types = {one.name: _NUMPY.get(one.type) for one in session.inputs}
        self._past = {one.name: one for one in past}
        outputs = [one.name for one in session.outputs]
        self._logits = "logits" if "logits" in outputs else outputs[0]
        self._pairs = _pair(list(self._past), [n for n in outputs if n.startswith("present")])
        self.reset()

    @property
    def has_cache(self) -> bool:
        """False if every token costs a run over all tokens before it."""
        return bool(self._past)

    def reset(self) -> None:
        """Forgets all tokens."""
        self.length, self._tokens = 0, []
        make = load_runtime().OrtValue.ortvalue_from_numpy
        self._cache = {
            name: make(_empty(one, self._types[name]), self._device, 0)
            for name, one in self._past.items()
        }

    def feed(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Appends tokens and returns the logits [vocabulary] of the next one.

        Raises:
            CannotRunError: The run failed.
        """
        if not tokens:
            raise InvalidInputError("there are no tokens to begin with")
        self._tokens += tokens
        given = list(tokens) if self.has_cache else self._tokens
        self.length = len(self._tokens)
        start = self.length - len(given)
        binding = self._native.io_binding()
        arrays: dict[str, NDArray[Any]] = {self._ids: np.asarray([given])}
        if self._mask is not None:
            arrays[self._mask] = np.ones((1, self.length))
        if self._positions is not None:
            arrays[self._positions] = np.arange(start, self.length)[None]
        for name, array in arrays.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array.astype(self._types[name])))
        for name, value in self._cache.items():
            binding.bind_ortvalue_input(name, value)
        names = [self._logits, *self._pairs.values()]
        for name in names:
            binding.bind_output(name, "cpu" if name == self._logits else self._device)
        try:
            self._native.run_with_iobinding(binding)
        except runtime_errors() as error:
            raise CannotRunError(one_line(error)) from error
        found = dict(zip(names, binding.get_outputs(), strict=True))
        self._cache = {past: found[present] for past, present in self._pairs.items()}
        logits = found[self._logits].numpy()
        result: NDArray[np.float32] = logits.reshape(-1, logits.shape[-1])[-1].astype(np.float32)
        return result


class Sampler:
    """Chooses the next token.

    Args:
        temperature: 0 takes the most likely one; larger ones flatten the distribution.
        top_k: Only this many of the most likely ones; 0 for all.
        top_p: Only the most likely ones that have this probability together.
        seed: Of the random numbers.
    """

    def __init__(
        self, temperature: float = 0.0, top_k: int = 0, top_p: float = 1.0, seed: int = 0
    ) -> None:
        if temperature < 0 or top_k < 0 or not 0 < top_p <= 1:
            raise InvalidInputError(
                "temperature and top-k are 0 or more, top-p lies between 0 and 1"
            )
        self._temperature, self._top_k, self._top_p = temperature, top_k, top_p
        self._random = np.random.default_rng(seed)

    def __call__(self, logits: NDArray[np.float32]) -> int:
        """The token for these logits [vocabulary]."""
        if not np.isfinite(logits.max()):
            raise CannotRunError("the model's logits are NaN or infinite")
        if self._temperature == 0:
            return int(logits.argmax())
        order = np.argsort(-logits, kind="stable")[: self._top_k or None]
        scores = logits[order].astype(np.float64) / self._temperature
        weights = np.exp(scores - scores.max())
        weights /= weights.sum()
        # As many as it takes to reach the probability, the one that crosses it included.
        kept = int(np.searchsorted(np.cumsum(weights), self._top_p)) + 1
        weights = weights[:kept] / weights[:kept].sum()
        return int(self._random.choice(order[:kept], p=weights))


def decode(decoder: Decoder, tokens: Sequence[int], sampler: Sampler, most: int) -> Iterator[int]:
    """Yields new tokens after a prompt, without end but for `most`."""
    logits = decoder.feed(tokens)
    for count in range(most):
        token = sampler(logits)
        yield token
        if count + 1 < most:
            logits = decoder.feed([token])


def _pair(past: list[str], present: list[str]) -> dict[str, str]:
    """Inputs of the cache to the outputs that follow them, by layer and part of their names."""
    by_parts = {_parts(name): name for name in present}
    pairs = {}
    for name in past:
        found = by_parts.get(_parts(name))
        if found is None:
            raise InvalidInputError(f"no output present... follows the input {name!r}")
        pairs[name] = found
    return pairs


def _parts(name: str) -> tuple[str, ...]:
    """Layer and part: ("3", "key") of past_key_values.3.key, past_3_key and present.3.key."""
    return tuple(_PARTS.findall(_PREFIX.sub("", name)))


def _empty(declared: Declared, dtype: np.dtype[Any] | None) -> NDArray[Any]:
    """A past of no tokens: [1, heads, 0, size]."""
    sizes = [dim if isinstance(dim, int) else None for dim in declared.shape]
    if dtype is None or len(sizes) != 4 or sizes[1] is None or sizes[3] is None:
        raise InvalidInputError(
            f"input {declared.name!r} is no cache [batch, heads, past, size] with known heads "
            "and size"
        )
    return np.zeros((1, sizes[1], 0, sizes[3]), dtype)
