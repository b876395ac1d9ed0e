"""`onnxopt quantize IN --mode weight-only`: its options, and what it runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

from onnxopt.cli.options import beside
from onnxopt.cli.output import show
from onnxopt.core.errors import InvalidInputError

F = TypeVar("F", bound=Callable[..., Any])

MODE = "weight-only"
# Options of the other modes that mean the same here.
_SHARED = ("tokenizer", "samples", "exclude", "external_data")


def weight_only_options(function: F) -> F:
    """The options that only weight-only quantization has."""
    for option in (
        click.option(
            "--accuracy-level",
            type=click.IntRange(0, 4),
            help="weight-only: of MatMulNBits: 0 float32, 4 int8 activations (the default).",
        ),
        click.option(
            "--average-bits",
            type=click.FloatRange(4, 8),
            help="weight-only: what --bits auto may spend per weight; 5 by default.",
        ),
        click.option(
            "--symmetric", is_flag=True, default=None, help="weight-only: no zero points."
        ),
        click.option(
            "--format",
            type=click.Choice(["operators", "standard"]),
            help="weight-only: operators of com.microsoft (default), or standard ones of opset 21.",
        ),
        click.option(
            "--algorithm",
            type=click.Choice(["rtn", "mse", "hqq", "gptq", "awq"]),
            help="weight-only: rtn by default; gptq and awq need --calibration.",
        ),
        click.option(
            "--block-size",
            metavar="N",
            help="weight-only: weights that share a scale, 32 by default; 0 for a whole channel; "
            "auto for the smallest of 32, 64 and 128 that is as fast here as any, by shape.",
        ),
        click.option(
            "--bits",
            type=click.Choice(["4", "8", "auto"]),
            help="weight-only: per weight, 4 by default; auto needs --calibration.",
        ),
    ):
        function = option(function)
    return function


def split_options(options: dict[str, Any]) -> dict[str, Any]:
    """Takes the options of this mode out of all options.

    Raises:
        InvalidInputError: One is given in another mode.
    """
    names = (
        *("bits", "block_size", "algorithm", "format", "symmetric", "average_bits"),
        "accuracy_level",
    )
    own = {name: options.pop(name) for name in names}
    given = {name: value for name, value in own.items() if value is not None}
    if given and options["mode"] != MODE:
        option = next(iter(given)).replace("_", "-")
        raise InvalidInputError(f"--{option} belongs to --mode {MODE}")
    return given


def run_weight_only(
    model: Path,
    output: Path | None,
    given: dict[str, Any],
    options: dict[str, Any],
    *,
    max_memory: int,
    html: Path | None,
    as_json: bool,
    verbose: bool,
    quiet: bool,
) -> None:
    """Quantizes and reports."""
    from onnxopt.cli.progress import progress
    from onnxopt.targets import as_target
    from onnxopt.weight_only import quantize_weights

    bits = given.pop("bits", "4")
    label = "int4" if bits == "auto" else f"int{bits}"
    if "block_size" in given:
        given["block_size"] = _block_size(given["block_size"], options["target"])
        given["threads"] = as_target(options["target"]).threads
    with progress(quiet=quiet or as_json) as observers:

        def told(what: str, done: int, count: int) -> None:
            for observer in observers:
                observer.working(f"{what} ({done:,} of {count:,})")

        result = quantize_weights(
            model,
            output or beside(model, label),
            bits=bits if bits == "auto" else int(bits),
            calibration=options["calibration"],
            max_memory=max_memory,
            progress=told,
            **given,
            **{name: options[name] for name in _SHARED if options[name] is not None},
        )
    if html is not None:
        from onnxopt.cli.pages.anatomy import read_anatomy
        from onnxopt.cli.pages.parts import write_page
        from onnxopt.cli.pages.quantize_page import weights_page

        write_page(weights_page(result.report, read_anatomy(result.report.output)), html)
    show(result.report, as_json=as_json, verbose=verbose, quiet=quiet)


def _block_size(text: str, target: str | None) -> int | Literal["auto"]:
    if text == "auto":
        from onnxopt.cli.options import run_here

        provider, _ = run_here(target, None)
        if provider != "cpu":
            raise InvalidInputError(
                "--block-size auto measures kernels of the CPU; name a size, for example 32"
            )
        return "auto"
    if not text.isdecimal() or len(text) > 9:
        raise InvalidInputError(f"--block-size {text[:40]!r}: write a number, or auto")
    return int(text)
