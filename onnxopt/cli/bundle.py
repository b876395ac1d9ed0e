"""`onnxopt bundle MODEL -o DIR`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from onnxopt.cli.bundle_options import bundle_options, take_bundle_options
from onnxopt.cli.options import inputs_option, output_options, target_option
from onnxopt.cli.output import show


@click.command("bundle")
@click.argument("model", type=click.Path(path_type=Path), metavar="MODEL")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The folder to make; MODEL without its suffix and with .bundle by default.",
)
@click.option(
    "--original",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="What MODEL was made of: the bundle then records parity with it and the speed-up.",
)
@click.option(
    "--max-error",
    type=click.FloatRange(min=0, min_open=True),
    metavar="E",
    help="Largest error, relative to an output's scale, that MODEL may have against --original, "
    "for a quantized or pruned one; by default that of rounding. Of the largest element, as "
    "in `quantize`; over it nothing is written and the exit code is 3.",
)
@inputs_option
@target_option
@bundle_options
@output_options
def command(
    model: Path,
    output: Path | None,
    original: Path | None,
    max_error: float | None,
    inputs: str | None,
    target: str | None,
    as_json: bool,
    verbose: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Pack a model with its session options, samples and proof, ready to ship.

    DIR holds the model as it is, what it was measured with, sample inputs with their outputs,
    hashes of all files, and a README with code that loads it. `onnxopt verify DIR` checks it.
    """
    chosen = take_bundle_options(options, wanted=True, inputs=inputs)
    chosen = dataclasses.replace(chosen, max_error=max_error)
    from onnxopt.bundling import bundle

    folder = output or model.with_name(f"{model.stem}.bundle")
    made = bundle(model, folder, original=original, target=target, options=chosen)
    show(made, as_json=as_json, verbose=verbose, quiet=quiet)
