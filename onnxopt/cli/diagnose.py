"""`onnxopt diagnose A B`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from onnxopt.cli.options import inputs_option, output_options
from onnxopt.cli.output import say


@click.command("diagnose")
@click.argument("original", type=click.Path(path_type=Path), metavar="A")
@click.argument("rewritten", type=click.Path(path_type=Path), metavar="B")
@inputs_option
@click.option(
    "--budget",
    metavar="X",
    help="Error that outputs may have: 0.01 or 1% (relative root mean square), or 40dB (SQNR). "
    "By default A's own noise, or what is usual if B has fewer bits: 40dB for float16, 26dB for "
    "bfloat16, 20dB for 8 bits, 12dB for 4 bits.",
)
@click.option(
    "--html",
    "page",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write a page with a plot of the error along the graph.",
)
@click.option(
    "--memory",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    metavar="MB",
    help="Memory for intermediate values, beside the models.",
)
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Look at every value, also where the outputs agree or a few values are enough.",
)
@output_options
def command(
    original: Path,
    rewritten: Path,
    inputs: str | None,
    budget: str | None,
    page: Path | None,
    memory: int,
    everything: bool,
    as_json: bool,
    verbose: bool,
    quiet: bool,
) -> None:
    """Find the nodes at which a model starts to differ from another.

    A is the reference and B what became of it by fusion, quantization, another precision or
    pruning, with any tool. Each part of B runs on the values of A, so that a node's own error is
    told from the error that it inherits. Exit code 3 if the outputs differ beyond the noise or,
    where B has fewer bits or --budget is given, beyond the budget.
    """
    from onnxopt.runtime.diagnosis.search import diagnose

    found = diagnose(
        original,
        rewritten,
        inputs=inputs,
        budget=budget,
        memory=memory << 20,
        everything=everything,
    )
    if page is not None:
        from onnxopt.core.errors import SaveError
        from onnxopt.runtime.diagnosis.page import diagnosis_page

        try:
            page.write_text(diagnosis_page(found, (original.name, rewritten.name)), "utf-8")
        except OSError as error:
            raise SaveError(f"cannot write {page}: {error.strerror}") from error
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
    elif not quiet:
        say(found.to_text(verbose=verbose))
    sys.exit(found.exit_code)
