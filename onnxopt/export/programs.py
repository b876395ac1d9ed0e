"""Saved `torch.export` programs (.pt2), read without unpickling anything but tensors."""

from __future__ import annotations

import contextlib
import functools
import importlib
import zipfile
from collections.abc import Iterator
from typing import Any

from onnxopt.core.errors import InvalidInputError
from onnxopt.export.filling import like_example
from onnxopt.export.functions import wrapped
from onnxopt.export.parts import Input
from onnxopt.export.sources import Loaded
from onnxopt.runtime.inputs.user_functions import USER_ERRORS

_LARGEST_SIZE = 64
# Constants that torch.export.load would unpickle whatever they are.
_OBJECTS = ("custom_obj", "opaque_obj")


def load_program(source: str) -> Loaded:
    """Loads a program; its dynamic dimensions become the model's.

    Raises:
        InvalidInputError: It is none, it holds objects other than tensors, or it takes something
            else than tensors.
    """
    import dataclasses

    import torch

    _refuse_objects(source)
    _register_operators()
    try:
        with _tensors_only():
            program = torch.export.load(source)
    except (zipfile.BadZipFile, *USER_ERRORS) as error:
        line = " ".join(str(error).split())[:200]
        raise InvalidInputError(
            f"{source}: cannot be read as a torch.export program: {line}"
        ) from error
    args, keywords = program.example_inputs or ((), {})
    values = [*args, *keywords.values()]
    if not values or not all(isinstance(one, torch.Tensor) for one in values):
        raise InvalidInputError(
            f"{source}: only programs that take tensors, and were saved with their example "
            "inputs, are exported"
        )
    names = program.graph_signature.user_inputs
    shapes = {
        node.name: node.meta["val"].shape
        for node in program.graph.nodes
        if node.op == "placeholder"
    }
    symbols: dict[str, str] = {}
    limits: dict[str, tuple[int, int]] = {}
    sizes: dict[str, int] = {}
    inputs = []
    for name, example in zip(names, values, strict=True):
        shape: list[int | str] = []
        for axis, dim in enumerate(shapes[name]):
            if isinstance(dim, int):
                shape.append(dim)
                continue
            default = "batch" if axis == 0 and "batch" not in symbols.values() else f"{name}_{axis}"
            symbol = symbols.setdefault(str(dim), default)
            limits.setdefault(symbol, _limits(program, dim))
            sizes.setdefault(symbol, example.shape[axis])
            shape.append(symbol)
        inputs.append(Input(name, tuple(shape), like_example(example)))
    part = wrapped(program.module(), tuple(inputs), False, sizes, guessed=False, limits=limits)
    return Loaded([dataclasses.replace(part, program=program)])


def _limits(program: Any, dim: Any) -> tuple[int, int]:
    found = program.range_constraints.get(dim.node.expr)
    if found is None:
        return 1, _LARGEST_SIZE
    lower = max(int(found.lower), 1)
    upper = _LARGEST_SIZE if found.upper > _LARGEST_SIZE else int(found.upper)
    return lower, max(lower, upper)


def _refuse_objects(source: str) -> None:
    try:
        with zipfile.ZipFile(source) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise InvalidInputError(f"{source} is no torch.export program: {error}") from error
    for name in names:
        if name.rpartition("/")[2].startswith(_OBJECTS):
            raise InvalidInputError(
                f"{source} holds pickled objects ({name}), which can run code when they are read; "
                "save it without them"
            )


def _register_operators() -> None:
    """Makes the operators of quantized programs known, which importing their makers does."""
    for module in ("torch.ao.quantization.fx._decomposed", "torchao"):
        with contextlib.suppress(ImportError):
            importlib.import_module(module)


@contextlib.contextmanager
def _tensors_only() -> Iterator[None]:
    """torch.load refuses everything but tensors, also where torch.export.load would allow it."""
    import torch

    original = torch.load

    @functools.wraps(original)
    def load(*args: Any, **keywords: Any) -> Any:
        return original(*args, **{**keywords, "weights_only": True})

    torch.load = load
    try:
        yield
    finally:
        torch.load = original
