"""Lines of text as inputs of a language model, by the tokenizer in a folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxopt.core.errors import InvalidInputError, MissingDependencyError
from onnxopt.runtime.inputs.user_functions import user_code

TEXT_SUFFIXES = frozenset({".txt", ".jsonl", ".json"})
_MOST_TOKENS = 512
_MOST_LINE = 1 << 20
# Fields of a JSON line that hold the text, in this order.
_FIELDS = ("text", "sentence", "sentence1", "premise", "question", "content", "prompt")


class TextSet(Mapping[str, Any]):
    """The token inputs of one text, made when asked for.

    Args:
        tokenizer: A `tokenizers.Tokenizer`.
        text: The text.
        names: The model's inputs that a tokenizer fills.
        length: Tokens at most.
    """

    def __init__(self, tokenizer: Any, text: str, names: Sequence[str], length: int) -> None:
        self._tokenizer, self._text, self._length = tokenizer, text, length
        self._names = tuple(names)

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        encoded = self._tokenizer.encode(self._text)
        ids = {
            "input_ids": encoded.ids,
            "attention_mask": encoded.attention_mask,
            "token_type_ids": encoded.type_ids,
            "position_ids": list(range(len(encoded.ids))),
        }[name]
        return np.asarray([ids[: self._length]], np.int64)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


TOKEN_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")


def read_texts(
    path: Path, tokenizer: Path | None, inputs: Sequence[str], *, length: int = _MOST_TOKENS
) -> list[TextSet]:
    """The input sets of a text file (a sample a line) or of a JSONL file (with a field "text").

    Raises:
        InvalidInputError: There is no tokenizer or no text, or the model takes no tokens.
        MissingDependencyError: The package tokenizers is not installed.
    """
    names = [name for name in TOKEN_INPUTS if name in inputs]
    if "input_ids" not in names:
        raise InvalidInputError(
            f"{path}: text needs an input named input_ids; the inputs are {', '.join(inputs)}"
        )
    if tokenizer is None:
        raise InvalidInputError(f"{path}: text needs a tokenizer: --tokenizer FOLDER")
    loaded = load_tokenizer(tokenizer)
    return [TextSet(loaded, text, names, length) for text in _lines(path)]


def _lines(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8") as file:
            lines = [line.strip() for line in iter(lambda: file.readline(_MOST_LINE), "")]
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{path}: cannot read the text: {error}") from error
    lines = [line for line in lines if line]
    if path.suffix != ".txt":
        lines = [_text_of(line, number, path) for number, line in enumerate(lines, 1)]
    if not lines:
        raise InvalidInputError(f"{path}: there is no text in it")
    return lines


def _text_of(line: str, number: int, path: Path) -> str:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise InvalidInputError(f"{path}: line {number} is not JSON: {error}") from error
    if isinstance(entry, str):
        return entry
    if isinstance(entry, dict):
        for field in _FIELDS:
            if isinstance(entry.get(field), str):
                return str(entry[field])
    raise InvalidInputError(
        f'{path}: line {number} is no text and has no field "text" (nor {", ".join(_FIELDS[1:])})'
    )


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in a folder, or in a tokenizer.json.

    Raises:
        InvalidInputError: There is none, or it cannot be read.
        MissingDependencyError: The package tokenizers is not installed.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingDependencyError(
            "text is tokenized with the package tokenizers: pip install 'onnxopt[text]'"
        ) from error
    path = folder / "tokenizer.json" if folder.is_dir() else folder
    if not path.is_file():
        raise InvalidInputError(f"{folder}: there is no tokenizer.json in it")
    # The package raises plain Exceptions.
    with user_code(f"{path}: cannot read the tokenizer"):
        return Tokenizer.from_file(str(path))
