"""`onnxopt convert IN --to fp16`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from onnxopt.cli.options import (
    beside,
    external_data_option,
    input_shape_option,
    inputs_option,
    output_option,
    output_options,
    parse_input_shapes,
)
from onnxopt.cli.output import failures_told, show


@click.command("convert")
@click.argument("model", type=click.Path(path_type=Path), metavar="IN")
@click.option(
    "--to", type=click.Choice(["fp16", "bf16"]), required=True, help="The type to compute in."
)
@output_option("IN with .fp16 or .bf16 before its suffix")
@click.option("--io-types", is_flag=True, help="Inputs and outputs change their type as well.")
@click.option(
    "--storage-only",
    is_flag=True,
    help="Only store weights in it: half the file, arithmetic in float32.",
)
@click.option(
    "--keep",
    multiple=True,
    metavar="NAME",
    help="A node, or a pattern as */norm/*, that stays in float32. Repeatable.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0, min_open=True),
    metavar="X",
    help="Relative error that outputs may have; 0.01 for fp16 and 0.05 for bf16 by default.",
)
@click.option(
    "--check/--no-check",
    default=True,
    help="Measure ranges and errors with ONNX Runtime (the default), or do not.",
)
@click.option(
    "--budget",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to search for the nodes that have to stay in float32; what is not ruled out by "
    "then does.",
)
@external_data_option
@input_shape_option
@inputs_option
@output_options
def command(
    model: Path,
    to: Literal["fp16", "bf16"],
    output: Path | None,
    io_types: bool,
    storage_only: bool,
    keep: tuple[str, ...],
    tolerance: float | None,
    check: bool,
    budget: float,
    external_data: bool | None,
    input_shapes: tuple[str, ...],
    inputs: str | None,
    as_json: bool,
    verbose: bool,
    quiet: bool,
) -> None:
    """Convert a model to float16 or bfloat16, and keep what overflows in float32.

    IN is an .onnx file of float32; it is never modified.
    """
    shapes = parse_input_shapes(input_shapes)
    from onnxopt.converting import convert

    with failures_told(as_json=as_json):
        result = convert(
            model,
            output or beside(model, to),
            to=to,
            io_types=io_types,
            storage=storage_only,
            keep=keep,
            calibration=inputs,
            input_shapes=shapes,
            tolerance=tolerance,
            check=check,
            budget=budget,
            external_data=external_data,
        )
    show(result.report, as_json=as_json, verbose=verbose, quiet=quiet)
