"""`onnxopt export SOURCE -o DIR`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from onnxopt.cli.options import output_options
from onnxopt.cli.output import show


@click.command("export")
@click.argument("source", metavar="SOURCE")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="The folder to make.",
)
@click.option(
    "--task",
    metavar="TASK",
    help="What a Hugging Face model is exported for, as text-classification; by default what its "
    "architecture says.",
)
@click.option(
    "--exporter",
    type=click.Choice(["auto", "dynamo", "torchscript", "optimum"]),
    default="auto",
    show_default=True,
    help="auto: try those that apply, keep the best by parity, then by latency once optimized.",
)
@click.option("--opset", type=click.IntRange(min=11), metavar="N", help="Opset; 18 by default.")
@click.option("--optimize", is_flag=True, help="Optimize the models as `onnxopt optimize` does.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier export in DIR.")
@output_options
def command(
    source: str,
    output: Path,
    task: str | None,
    exporter: str,
    opset: int | None,
    optimize: bool,
    overwrite: bool,
    as_json: bool,
    verbose: bool,
    quiet: bool,
) -> None:
    """Export a PyTorch or Hugging Face model, and prove that it is right.

    SOURCE is a Hugging Face folder or hub id; module:function or file.py:function that returns
    (module, example inputs), which is run; or a saved torch.export program (.pt2).
    """
    from onnxopt.export.exporting import export

    with _progress(quiet=quiet or as_json) as say:
        result = export(
            source,
            output,
            task=task,
            exporter=exporter,
            opset=opset,
            optimize=optimize,
            overwrite=overwrite,
            say=say,
        )
    show(result, as_json=as_json, verbose=verbose, quiet=quiet)


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Callable[[str], None] | None]:
    """One line on stderr that says what is being done, on a terminal only."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console

    with Console(stderr=True).status("reading the source") as status:
        yield status.update
