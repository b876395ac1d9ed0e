"""`onnxopt recover IN --original ORIGINAL`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnxopt.cli.calibration_options import data_options
from onnxopt.cli.options import (
    beside,
    external_data_option,
    html_option,
    output_option,
    output_options,
)
from onnxopt.cli.output import show
from onnxopt.core.errors import InvalidInputError


@click.command("recover")
@click.argument("model", type=click.Path(path_type=Path), metavar="IN")
@click.option(
    "--original",
    type=click.Path(path_type=Path),
    required=True,
    metavar="MODEL",
    help="The model to reproduce, as it was before pruning or quantizing.",
)
@output_option("IN with .recovered before its suffix")
@data_options
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    metavar="N",
    help="Passes over the data.",
)
@click.option(
    "--learning-rate",
    type=click.FloatRange(min=0, min_open=True),
    default=3e-4,
    show_default=True,
    metavar="X",
    help="That of Adam at the start, relative to the size of each weight; it falls to zero.",
)
@click.option("--train-embeddings", is_flag=True, help="Train tables of embeddings, too.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the order of samples.")
@external_data_option
@html_option
@output_options
def command(
    model: Path,
    original: Path,
    output: Path | None,
    calibration: str | None,
    html: Path | None,
    as_json: bool,
    verbose: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Train a pruned or quantized model to give what the original gives.

    No labels are needed: the outputs of ORIGINAL on the --calibration data are the goal. The graph
    of IN stays as it is, its weights change. Needs PyTorch (the extra `export`).
    """
    if calibration is None:
        raise InvalidInputError("training needs data like that of the application: --calibration")
    from onnxopt.cli.progress import progress
    from onnxopt.recovering import recover

    with progress(quiet=quiet or as_json) as observers:

        def told(epoch: int, epochs: int, error: float) -> None:
            for observer in observers:
                observer.working(f"epoch {epoch} of {epochs}: error {error:.3%}")

        report = recover(
            model,
            original,
            output or beside(model, "recovered"),
            calibration=calibration,
            progress=told,
            **options,
        ).report
    if html is not None:
        from onnxopt.cli.pages.parts import write_page
        from onnxopt.cli.pages.recover_page import recover_page

        write_page(recover_page(report), html)
    show(report, as_json=as_json, verbose=verbose, quiet=quiet)
