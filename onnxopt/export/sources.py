"""What is exported: a Hugging Face folder or hub id, a function of the user's, a .pt2 program."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import Any, Literal

from onnxopt.core.errors import InvalidInputError
from onnxopt.export.parts import Part
from onnxopt.runtime.inputs.user_functions import names_function

Kind = Literal["folder", "hub", "function", "program"]

_PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".tar")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A source that was read.

    Attributes:
        parts: What is exported, one file each.
        model: The transformers model, if it is one.
        task: Its task.
        folder: Where configuration, tokenizer and processor files are, if there are any.
        untrained: Names of the weights that the source does not have.
        notes: What the user should know.
    """

    parts: list[Part]
    model: Any = None
    task: str = ""
    folder: Path | None = None
    untrained: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def kind_of(source: str) -> Kind:
    """What a source is, without reading it.

    Raises:
        InvalidInputError: It is nothing that can be exported.
    """
    path = Path(source)
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"{source!r} is no path and no model name") from error
    if is_folder:
        if not (path / "config.json").is_file():
            raise InvalidInputError(
                f"{source} is a folder without config.json: it is no Hugging Face model"
            )
        return "folder"
    if names_function(source) and not is_file:
        return "function"
    if is_file:
        return _file_kind(source, path)
    if path.suffix in (".pt2", *_PICKLES) or source.startswith((os.sep, ".", "~")):
        raise InvalidInputError(f"{source} does not exist")
    if _HUB_ID.fullmatch(source):
        return "hub"
    raise InvalidInputError(
        f"{source!r} is no folder or file here and no model name; give a Hugging Face folder or "
        "id, module:function, file.py:function or a .pt2 file"
    )


def _file_kind(source: str, path: Path) -> Kind:
    suffix = path.suffix.lower()
    if suffix == ".pt2":
        return "program"
    if suffix in _PICKLES:
        raise InvalidInputError(
            f"{source} is a pickle, which can run code when it is read; write a function that "
            "builds the module and loads its state dict (safetensors, or "
            "torch.load(..., weights_only=True)), and export it: file.py:function"
        )
    if suffix == ".onnx":
        raise InvalidInputError(f"{source} is an ONNX model already; use `onnxopt optimize`")
    if suffix == ".safetensors":
        raise InvalidInputError(f"{source} holds weights alone; give the folder it is in")
    if suffix == ".py":
        raise InvalidInputError(
            f"{source}: name the function that returns the module and example inputs: "
            f"{source}:function"
        )
    raise InvalidInputError(f"{source} is nothing that can be exported")


def load_source(source: str, task: str | None) -> Loaded:
    """Reads a source.

    Args:
        source: Folder, hub id, function or .pt2 file.
        task: What to export a Hugging Face model for; by default what its architecture says.

    Raises:
        InvalidInputError: It cannot be read.
        MissingDependencyError: It needs a package that is not installed.
    """
    kind = kind_of(source)
    if kind in ("folder", "hub"):
        from onnxopt.export.hugging_face import fetch, load_hugging_face

        return load_hugging_face(source, fetch(source) if kind == "hub" else Path(source), task)
    if task is not None:
        raise InvalidInputError("--task is for Hugging Face models")
    if kind == "function":
        from onnxopt.export.functions import load_function

        return load_function(source)
    from onnxopt.export.programs import load_program

    return load_program(source)
