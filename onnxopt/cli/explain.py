"""`onnxopt explain MODEL`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from onnxopt.cli.options import output_options
from onnxopt.cli.output import say, show


@click.command("explain")
@click.argument("model", type=click.Path(path_type=Path), metavar="MODEL")
@click.option(
    "--target",
    metavar="TARGET",
    help="Where it would run, as cpu or cuda; by default what the installed ONNX Runtime is for.",
)
@click.option(
    "--opset", type=click.IntRange(min=7), metavar="N", help="Raise the opset to this first."
)
@click.option(
    "--require",
    multiple=True,
    metavar="NAME=COUNT",
    help="Fail (exit code 3) unless so many rewrites of a pass or rule are made, or so many nodes "
    "of an operator are in the result, as fuse-gelu=12 or LayerNormalization=25. Repeatable.",
)
@output_options
def command(
    model: Path,
    target: str | None,
    opset: int | None,
    require: tuple[str, ...],
    as_json: bool,
    verbose: bool,
    quiet: bool,
) -> None:
    """Say which rewrites a model gets, which it just misses, and why.

    Runs the passes on a copy of MODEL in memory; nothing is written. With --require it is a check
    for CI: it notices when a new exporter spells something so that a fusion no longer matches.
    """
    from onnxopt.explaining import explain

    found = explain(model, target=target, opset=opset, require=require)
    show(found, as_json=as_json, verbose=verbose, quiet=quiet)
    if quiet and not as_json:
        for line in found.unmet:
            say(f"not met: {line}", err=True)
    sys.exit(found.exit_code)
