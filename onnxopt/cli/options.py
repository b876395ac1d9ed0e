"""Options that several commands share, declared once and stacked as decorators."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
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


def output_option(default: str) -> Callable[[F], F]:
    """`-o OUT`: where the result goes.

    Args:
        default: What the file is called without it, for the help.
    """
    return click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path),
        metavar="OUT",
        help=f"Where to write the result; {default} by default. May be IN itself.",
    )


def beside(model: Path, label: str) -> Path:
    """The file of a result beside its model: `model.onnx` becomes `model.LABEL.onnx`."""
    if not model.name:  # "." or "/", which is no model anyway
        return model / f"model.{label}.onnx"
    return model.with_name(f"{model.stem}.{label}{model.suffix or '.onnx'}")


def external_data_option(function: F) -> F:
    """`--external-data`: whether weights get a file of their own."""
    return click.option(
        "--external-data/--no-external-data",
        default=None,
        help="Write weights to OUT.data beside OUT, or never do; by default over 2 GB only.",
    )(function)


def _check_folder(
    context: click.Context, parameter: click.Parameter, path: Path | None
) -> Path | None:
    """Before any work is done for it."""
    if path is not None and not path.absolute().parent.is_dir():
        raise InvalidInputError(f"cannot write the page {path}: there is no such folder")
    return path


def html_option(function: F) -> F:
    """`--html FILE`: the report as a page."""
    return click.option(
        "--html",
        type=click.Path(path_type=Path),
        callback=_check_folder,
        metavar="FILE",
        help="Write the report as one page of HTML that needs nothing but itself.",
    )(function)


def target_option(function: F) -> F:
    """`--target`: what a result is made for."""
    return click.option(
        "--target",
        metavar="TARGET",
        help="Where the result will run: cpu or cuda, with options as in cpu:threads=4,isa=avx2; "
        "by default what the installed ONNX Runtime is built for.",
    )(function)


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
