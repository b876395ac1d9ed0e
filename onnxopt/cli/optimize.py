"""`onnxopt optimize IN`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from onnxopt.cli.options import (
    beside,
    external_data_option,
    input_shape_option,
    inputs_option,
    output_option,
    output_options,
    parse_input_shapes,
    target_option,
)

if TYPE_CHECKING:
    from onnxopt.core.report import Report


@click.command("optimize")
@click.argument("model", type=click.Path(path_type=Path), metavar="IN")
@output_option("IN with .opt before its suffix")
@click.option(
    "--passes",
    metavar="SPEC",
    help="Run these passes only, in this order: NAME,NAME{option=value},... "
    "(`onnxopt passes` lists them).",
)
@click.option(
    "--standard-operators",
    is_flag=True,
    help="Keep to standard operators; by default those of ONNX Runtime (com.microsoft) are used "
    "where they are faster on the target.",
)
@click.option(
    "--opset",
    type=click.IntRange(min=7),
    metavar="N",
    help="Raise the opset to this version first.",
)
@input_shape_option
@inputs_option
@external_data_option
@target_option
@click.option(
    "--guard",
    type=click.Choice(["off", "parity", "full"]),
    default="parity",
    show_default=True,
    help="parity: run both models in ONNX Runtime and undo what makes them differ. "
    "full: do so after every group of passes, time it as well, and undo what is slower.",
)
@click.option(
    "--guard-budget",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long the guard may search for what to undo, and with full check and time.",
)
@output_options
def command(
    model: Path,
    output: Path | None,
    passes: str | None,
    standard_operators: bool,
    opset: int | None,
    input_shapes: tuple[str, ...],
    inputs: str | None,
    external_data: bool | None,
    target: str | None,
    guard: Literal["off", "parity", "full"],
    guard_budget: float,
    as_json: bool,
    verbose: bool,
    quiet: bool,
) -> None:
    """Make a model smaller and faster, and prove that it is.

    IN is an .onnx file, or a folder that `onnxopt export` made. It is never modified, unless OUT
    is IN: then it is replaced at the very end, in one step.
    """
    shapes = parse_input_shapes(input_shapes)
    options: dict[str, Any] = {
        "passes": passes,
        "standard_operators": standard_operators,
        "opset": opset,
        "input_shapes": shapes,
        "inputs": inputs,
        "target": target,
        "guard": guard,
        "guard_budget": guard_budget,
        "external_data": external_data,
        "isolated": True,
    }
    from onnxopt.cli.progress import progress
    from onnxopt.core.errors import ParityError

    try:
        with progress(quiet=quiet or as_json) as observers:
            reports = _optimize(model, output, {**options, "observers": observers})
    except ParityError as error:
        if as_json and error.report is not None:
            click.echo(json.dumps(error.report.to_dict(), indent=2))
        raise
    if as_json:
        plain = {name: report.to_dict() for name, report in reports.items()}
        # Of a file the report itself, of a folder one for each file.
        click.echo(json.dumps(plain.get("", plain), indent=2))
    elif not quiet:
        click.echo("\n\n".join(r.to_text(verbose=verbose) for r in reports.values()))


def _optimize(model: Path, output: Path | None, options: dict[str, Any]) -> dict[str, Report]:
    """The report of a file, under the name "", or of every file of an export."""
    if (model / "export.json").is_file():
        from onnxopt.export.optimizing_folder import optimize_folder

        folder = model.absolute()
        return optimize_folder(model, output or folder.with_name(f"{folder.name}.opt"), **options)
    from onnxopt.optimizing import optimize

    return {"": optimize(model, output or beside(model, "opt"), **options).report}
