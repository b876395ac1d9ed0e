"""`generate`: text or tokens from a language model, and how fast they came."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from onnxopt.core.errors import InvalidInputError

PathLike = str | os.PathLike[str]
BYTES = "bytes"
_NAMES = ("model.onnx", "decoder_model_merged.onnx", "decoder_with_past_model.onnx")


@dataclasses.dataclass(frozen=True)
class Generation:
    """What came out.

    Attributes:
        tokens: The new tokens.
        text: Their text; None without a tokenizer.
        prompt_tokens: Length of the prompt.
        prompt_seconds: Time until the first new token.
        decode_seconds: Time of all others.
        notes: What the user should know.
    """

    tokens: list[int]
    text: str | None
    prompt_tokens: int
    prompt_seconds: float
    decode_seconds: float
    notes: list[str]

    @property
    def tokens_per_second(self) -> float:
        """Of decoding, without the prompt; 0 if there was nothing to decode."""
        steps = len(self.tokens) - 1
        return steps / self.decode_seconds if steps > 0 and self.decode_seconds else 0.0

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready data."""
        return {**dataclasses.asdict(self), "tokens_per_second": round(self.tokens_per_second, 3)}


def generate(
    model: PathLike,
    prompt: str | None = None,
    *,
    tokens: Sequence[int] | None = None,
    tokenizer: PathLike | None = None,
    max_tokens: int = 64,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    stop: Sequence[int] | None = None,
    threads: int | None = None,
    provider: str = "cpu",
    heard: Callable[[int], None] | None = None,
) -> Generation:
    """Continues a prompt with a decoder.

    Args:
        model: A model file, or a folder with one and its tokenizer.json.
        prompt: Text; needs a tokenizer.
        tokens: Or its tokens.
        tokenizer: A folder with a tokenizer.json, that of the model by default; "bytes" for models
            whose tokens are bytes.
        max_tokens: How many tokens to generate at most.
        temperature: 0 takes the most likely token each time.
        top_k: Sample from this many only; 0 for all.
        top_p: Sample from the most likely ones that have this probability together.
        seed: Of the samples.
        stop: Tokens to stop at; those that generation_config.json names by default.
        threads: Threads inside an operator.
        provider: "cpu" or "cuda".
        heard: Told every token as it comes.

    Raises:
        OnnxOptError: The model or the tokenizer cannot be used.
    """
    from onnxopt.runtime.decoding import Decoder, Sampler, decode

    if (prompt is None) == (tokens is None):
        raise InvalidInputError("give a prompt or tokens, one of the two")
    if max_tokens < 1:
        raise InvalidInputError("generate at least one token")
    path, folder = _find_model(Path(model))
    codec = _Codec(tokenizer, folder)
    given = list(tokens) if tokens is not None else codec.encode(prompt or "")
    ends = set(_end_tokens(folder) if stop is None else stop)
    decoder = Decoder(path, threads=threads, provider=provider)
    notes = []
    if not decoder.has_cache:
        notes.append("the model has no key/value cache: every token costs a run over all before it")
    found: list[int] = []
    start = time.perf_counter()
    first = start
    for token in decode(decoder, given, Sampler(temperature, top_k, top_p, seed), max_tokens):
        if not found:
            first = time.perf_counter()
        found.append(token)
        if heard is not None:
            heard(token)
        if token in ends:
            break
    return Generation(
        tokens=found,
        text=codec.decode(found),
        prompt_tokens=len(given),
        prompt_seconds=first - start,
        decode_seconds=time.perf_counter() - first,
        notes=notes,
    )


class _Codec:
    """Text to tokens and back."""

    def __init__(self, tokenizer: PathLike | None, folder: Path) -> None:
        self._bytes = tokenizer == BYTES
        self._loaded = None
        place = folder if tokenizer is None else Path(tokenizer)
        if not self._bytes and (tokenizer is not None or (folder / "tokenizer.json").is_file()):
            from onnxopt.calibration.texts import load_tokenizer

            self._loaded = load_tokenizer(place)

    def encode(self, text: str) -> list[int]:
        if self._bytes:
            return list(text.encode())
        if self._loaded is None:
            raise InvalidInputError(
                "a prompt needs a tokenizer.json beside the model, --tokenizer FOLDER, or "
                "--tokenizer bytes; or give --tokens"
            )
        return list(self._loaded.encode(text).ids)

    def decode(self, tokens: Sequence[int]) -> str | None:
        if self._bytes:
            return bytes(token & 255 for token in tokens).decode(errors="replace")
        return None if self._loaded is None else str(self._loaded.decode(list(tokens)))


def _find_model(path: Path) -> tuple[Path, Path]:
    """The model file, and the folder that its tokenizer is in."""
    if not path.is_dir():
        if not path.exists():
            raise InvalidInputError(f"{path}: there is no such file or folder")
        return path, path.parent
    found = [path / name for name in _NAMES if (path / name).is_file()] or sorted(
        path.glob("*.onnx")
    )
    if not found:
        raise InvalidInputError(f"{path}: there is no .onnx file in it")
    if len(found) > 1 and found[0].name not in _NAMES:
        names = ", ".join(one.name for one in found)
        raise InvalidInputError(f"{path}: which model? It has {names}; name the file")
    return found[0], path


def _end_tokens(folder: Path) -> list[int]:
    path = folder / "generation_config.json"
    if not path.is_file():
        return []
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"{path}: cannot read it: {error}") from error
    found = config.get("eos_token_id") if isinstance(config, dict) else None
    ends = found if isinstance(found, list) else [found]
    return [one for one in ends if isinstance(one, int)]
