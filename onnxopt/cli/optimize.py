"""`onnxopt optimize IN`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from onnxopt.cli.bundle_options import bundle_options, take_bundle_options
from onnxopt.cli.options import (
    beside,
    external_data_option,
    html_option,
    input_shape_option,
    inputs_option,
    output_option,
    output_options,
    parse_input_shapes,
    target_option,
)
from onnxopt.cli.output import failures_told, say
from onnxopt.core.errors import InvalidInputError

if TYPE_CHECKING:
    from onnxopt.bundling import BundleOptions
    from onnxopt.cli.output import Tellable


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
@click.option(
    "--parity-timeout",
    type=click.FloatRange(min=0, min_open=True),
    show_default="600.0",
    metavar="SECONDS",
    help="Stop a parity run that takes longer, as of a loop that does not end. Not with --prune or "
    "--quantize.",
)
@click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Make a bundle of the result instead of a file (see `onnxopt bundle`).",
)
@bundle_options
@click.option(
    "--prune",
    metavar="GOAL",
    help="Remove channels, neurons and heads first, and re-fit what is left: flops=0.5, size=0.5, "
    "latency=0.7 (what is kept) or sparsity=0.3 (what goes), with ,max-error=0.2 to bound what "
    "that costs. `onnxopt prune` has all options.",
)
@click.option(
    "--quantize",
    type=click.Choice(["int8", "int4", "fp16", "bf16"]),
    help="int8: quantize the optimized model where that is faster and close enough. int4: store "
    "its weights in 4 bits. fp16, bf16: convert it. `onnxopt quantize` and `onnxopt convert` have "
    "all options.",
)
@click.option(
    "--calibration",
    metavar="DATA",
    help="Data for --prune and --quantize, as `onnxopt quantize` takes it.",
)
@click.option(
    "--max-error",
    type=click.FloatRange(min=0, min_open=True),
    metavar="E",
    help="Largest relative error of an output that --quantize may cause. int8: of its largest "
    "element; what is over it stays in float. int4, fp16, bf16, and max-error in --prune: root "
    "mean square; over it nothing is written and the exit code is 3. By default what `quantize` "
    "and `convert` default to; any for int4.",
)
@html_option
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
    parity_timeout: float | None,
    bundle: Path | None,
    prune: str | None,
    quantize: Literal["int8", "int4", "fp16", "bf16"] | None,
    calibration: str | None,
    max_error: float | None,
    html: Path | None,
    as_json: bool,
    verbose: bool,
    quiet: bool,
    **bundle_arguments: Any,
) -> None:
    """Make a model smaller and faster, and prove that it is.

    IN is an .onnx file, or a folder that `onnxopt export` made. It is never modified, unless OUT
    is IN: then it is replaced at the very end, in one step.
    """
    shapes = parse_input_shapes(input_shapes)
    chosen = take_bundle_options(bundle_arguments, wanted=bundle is not None, inputs=inputs)
    options: dict[str, Any] = {
        "passes": passes,
        "standard_operators": standard_operators,
        "opset": opset,
        "input_shapes": shapes,
        "inputs": inputs,
        "target": target,
        "guard": guard,
        "guard_budget": guard_budget,
        "parity_timeout": parity_timeout,
        "external_data": external_data,
        "isolated": True,
        "prune": prune,
        "quantize": quantize,
        "calibration": calibration,
        "max_error": max_error,
    }
    from onnxopt.cli.progress import progress

    with failures_told(as_json=as_json), progress(quiet=quiet or as_json) as observers:
        options["observers"] = observers
        results = (
            _optimize(model, output, options)
            if bundle is None
            else {"": _to_bundle(model, output, bundle, chosen, options)}
        )
    if html is not None:
        _write_page(results, html)
    if as_json:
        plain = {name: result.to_dict() for name, result in results.items()}
        # Of a file the report itself, of a folder one for each file.
        click.echo(json.dumps(plain.get("", plain), indent=2))
    elif not quiet:
        say("\n\n".join(r.to_text(verbose=verbose) for r in results.values()))


def _write_page(results: dict[str, Tellable], html: Path) -> None:
    from onnxopt.bundling import Bundle
    from onnxopt.cli.pages.anatomy import read_anatomy
    from onnxopt.cli.pages.optimize_page import optimize_page
    from onnxopt.cli.pages.parts import write_page
    from onnxopt.core.report import Report

    if len(results) != 1:
        raise InvalidInputError("--html is for one model; this folder has several")
    (result,) = results.values()
    report: object = result
    output = getattr(result, "output", "")
    if isinstance(result, Bundle):
        report, output = result.report, str(result.folder / result.manifest.model)
    assert isinstance(report, Report)
    write_page(optimize_page(report, read_anatomy(output)), html)


def _to_bundle(
    model: Path,
    output: Path | None,
    folder: Path,
    chosen: BundleOptions,
    options: dict[str, Any],
) -> Tellable:
    if output is not None:
        raise InvalidInputError("--bundle DIR takes the place of -o: give one of them")
    if (model / "export.json").is_file():
        raise InvalidInputError(f"{model} is a folder: bundles are made of one of its .onnx files")
    from onnxopt.bundling import optimize_to_bundle

    del options["inputs"]  # the bundle has them
    return optimize_to_bundle(model, folder, options=chosen, **options)


def _optimize(model: Path, output: Path | None, options: dict[str, Any]) -> dict[str, Tellable]:
    """The report of a file, under the name "", or of every file of an export."""
    if (model / "export.json").is_file():
        from onnxopt.export.optimizing_folder import optimize_folder

        folder = model.absolute()
        target = output or folder.with_name(f"{folder.name}.opt")
        return {**optimize_folder(model, target, **options)}
    from onnxopt.optimizing import optimize

    return {"": optimize(model, output or beside(model, "opt"), **options).report}
