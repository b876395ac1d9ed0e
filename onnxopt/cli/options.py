"""Options that several commands share, declared once and stacked as decorators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from onnxopt.core.errors import InvalidInputError

F = TypeVar("F", bound=Callable[..., Any])


def output_options(function: F) -> F:
    """`-q`, `-v` and `--json`: how much is said, and to whom."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout, nothing else."),
        click.option("-v", "--verbose", is_flag=True, help="Say everything, node by node."),
        click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors."),
    ):
        function = option(function)
    return function


def input_shape_option(function: F) -> F:
    """`--input-shape name=1,3,224,224`, as often as there are inputs to fix."""
    return click.option(
        "--input-shape",
        "input_shapes",
        multiple=True,
        metavar="NAME=D,D,...",
        help="Fix the shape of an input, for example x=1,3,224,224. Repeatable.",
    )(function)


def parse_input_shapes(texts: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Reads `name=1,3,224,224`; a name may hold `=` or `:` itself.

    Raises:
        InvalidInputError: The text is not of that form, a dimension is negative or far too large,
            or an input is named twice.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, separator, dims = text.rpartition("=")
        parts = [part.strip() for part in dims.split(",")] if dims.strip() else []
        # More than 19 digits are no int64.
        fits = all(part.isdecimal() and len(part) < 20 for part in parts)
        if not separator or not name or not fits:
            raise InvalidInputError(
                f"--input-shape {text[:80]!r}: write NAME=D,D,... with whole numbers, "
                "for example x=1,3,224,224"
            )
        if name in shapes:
            raise InvalidInputError(f"--input-shape: {name!r} is given twice")
        shapes[name] = tuple(int(part) for part in parts)
    return shapes


def inputs_option(function: F) -> F:
    """`--inputs`: the user's own data."""
    return click.option(
        "--inputs",
        metavar="SOURCE",
        help="Data to run on: a .npz, a folder of .npz or .npy files, or module:function or "
        "file.py:function that yields inputs by name (it is run). Synthesized by default.",
    )(function)


def provider_option(function: F) -> F:
    """`--target`, which `--provider` is another name of: where models run."""
    return click.option(
        "--provider",
        "--target",
        "provider",
        metavar="TARGET",
        help="Where to run the models: cpu or cuda, also with threads as in cpu:threads=4; "
        "by default what the installed ONNX Runtime is built for.",
    )(function)


def run_here(target: str | None, threads: int | None) -> tuple[str, int | None]:
    """The provider and the threads that models are run with on this machine.

    Args:
        target: What `--target` was given.
        threads: What `--threads` was given.

    Raises:
        InvalidInputError: The text is no target, both name threads and not the same, or the target
            has an instruction set that is not this machine's.
    """
    from onnxopt.instruction_sets import detect_isa
    from onnxopt.targets import as_target

    aim = as_target(target)
    if aim.isa not in (None, detect_isa()):
        raise InvalidInputError(
            f"--target {target}: models are run with this machine's instruction set, "
            f"{detect_isa()}; leave isa={aim.isa} out"
        )
    if threads is not None and aim.threads not in (None, threads):
        raise InvalidInputError(f"--threads {threads} and --target {target} contradict each other")
    return aim.provider, threads or aim.threads
