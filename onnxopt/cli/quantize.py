"""`onnxopt quantize IN`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnxopt.cli.calibration_options import calibration_options
from onnxopt.cli.options import (
    beside,
    external_data_option,
    html_option,
    input_shape_option,
    output_option,
    output_options,
    parse_input_shapes,
    target_option,
)
from onnxopt.cli.output import show
from onnxopt.cli.weight_only import MODE, run_weight_only, split_options, weight_only_options

_TYPES = click.Choice(["int8", "uint8", "int16", "uint16"])


@click.command("quantize")
@click.argument("model", type=click.Path(path_type=Path), metavar="IN")
@output_option("IN with .int8 before its suffix")
@click.option(
    "--mode",
    type=click.Choice(["auto", "dynamic", "static", MODE]),
    default="auto",
    show_default=True,
    help="dynamic: weights are integers, ranges of activations are found in every run. static: "
    "ranges come from --calibration. auto: all forms that make sense here, measured. "
    "weight-only: weights in 4 or 8 bits, activations in float; for models that decode tokens.",
)
@calibration_options
@click.option(
    "--calibration-table",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Reuse the ranges in this .npz or .json file, or write them there if it does not exist.",
)
@click.option(
    "--method",
    type=click.Choice(["min-max", "moving-average", "percentile", "entropy", "mse"]),
    help="How ranges are chosen; by default the way with the least error of the outputs.",
)
@click.option(
    "--percentile",
    type=click.FloatRange(50, 100, min_open=True),
    default=99.999,
    show_default=True,
    help="Share of the values that a range keeps, for the method of that name.",
)
@click.option("--activation-type", type=_TYPES, help="Integers of activations in static forms.")
@click.option("--weight-type", type=_TYPES, default="int8", show_default=True)
@click.option(
    "--per-channel/--per-tensor",
    "per_channel",
    default=True,
    show_default=True,
    help="A scale for each output channel of a weight.",
)
@click.option(
    "--reduce-range/--full-range",
    "reduce_range",
    default=None,
    help="7 bits for weights, or 8; by default 7 where the target's kernels saturate.",
)
@click.option(
    "--exclude",
    multiple=True,
    metavar="GLOB",
    help="Leave nodes with such names, or of this op type, in float. Repeatable.",
)
@click.option("--embeddings", is_flag=True, help="Store tables of embeddings as integers as well.")
@click.option(
    "--max-error",
    type=click.FloatRange(min=0, min_open=True),
    metavar="E",
    help="Largest error of an output relative to its scale; 0.04 by default. The most sensitive "
    "nodes stay in float until it is met; if none can be quantized within it, all do. (convert, "
    "prune and int4 are judged by the root mean square, and write nothing over it.)",
)
@click.option(
    "--min-cosine",
    type=click.FloatRange(-1, 1),
    metavar="C",
    help="Smallest cosine of an output with the float one.",
)
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Classes of the calibration data, one for each row in order: .npy, or text, one a line. "
    "Top-1 accuracy decides then; half of the data is kept to measure it on.",
)
@click.option(
    "--metric",
    metavar="FILE.py:FUNCTION",
    help="Instead of labels a function of outputs by name and a sample's number (it is run); the "
    "higher its result, the better.",
)
@click.option(
    "--max-accuracy-drop",
    type=click.FloatRange(min=0),
    default=0.01,
    show_default=True,
    metavar="D",
    help="How much lower than the float model's the accuracy or metric may be.",
)
@click.option(
    "--repair",
    default="auto",
    show_default=True,
    metavar="LIST",
    help="Accuracy repairs to try: auto, none, or a list of smooth, insert, rounding, equalize, "
    "ranges. Each is kept only if it lowers the error on data that was not calibrated on.",
)
@click.option(
    "--budget",
    type=click.FloatRange(min=0, min_open=True),
    default=180.0,
    show_default=True,
    metavar="SECONDS",
    help="About how long the search may measure.",
)
@click.option(
    "--force",
    is_flag=True,
    help="Write the form asked for with --mode even if it is slower than float or over the budget.",
)
@target_option
@external_data_option
@weight_only_options
@input_shape_option
@html_option
@output_options
def command(
    model: Path,
    output: Path | None,
    input_shapes: tuple[str, ...],
    max_memory: int,
    html: Path | None,
    as_json: bool,
    verbose: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Make an 8-bit model that is faster than float and close to it.

    Every form is timed and compared with the float model on data that it was not calibrated on; the
    fastest within the budget of error is written. If none beats float, the float model is.
    """
    shapes = parse_input_shapes(input_shapes)
    given = split_options(options)
    if options["mode"] == MODE:
        run_weight_only(
            model,
            output,
            given,
            options,
            max_memory=max_memory << 20,
            html=html,
            as_json=as_json,
            verbose=verbose,
            quiet=quiet,
        )
        return
    from onnxopt.cli.progress import progress
    from onnxopt.quantizing import quantize

    with progress(quiet=quiet or as_json) as observers:
        result = quantize(
            model,
            output or beside(model, "int8"),
            input_shapes=shapes,
            max_memory=max_memory << 20,
            observers=observers,
            **options,
        )
    if html is not None:
        from onnxopt.cli.pages.anatomy import read_anatomy
        from onnxopt.cli.pages.parts import write_page
        from onnxopt.cli.pages.quantize_page import quantize_page

        write_page(quantize_page(result.report, read_anatomy(result.report.output)), html)
    show(result.report, as_json=as_json, verbose=verbose, quiet=quiet)
