"""`onnxopt verify DIR`."""

from __future__ import annotations

from pathlib import Path

import click

from onnxopt.cli.options import output_options
from onnxopt.cli.output import say, show


@click.command("verify")
@click.argument("bundle", type=click.Path(path_type=Path), metavar="BUNDLE")
@output_options
@click.pass_context
def command(
    context: click.Context, bundle: Path, as_json: bool, verbose: bool, quiet: bool
) -> None:
    """Check that a bundle is what it was, and that it computes the same here.

    BUNDLE is a folder that `onnxopt bundle` or `onnxopt optimize --bundle` made, or a .zip of it.
    Hashes, structure and samples are checked; warnings say what this machine lacks. Exit code 3 if
    something is not as recorded.
    """
    from onnxopt.bundling import verify

    found = verify(bundle)
    show(found, as_json=as_json, verbose=verbose, quiet=quiet)
    if quiet and not as_json:
        for check in found.checks:
            for finding in check.findings if check.outcome == "failed" else ():
                say(f"{check.name}: {finding}", err=True)
    context.exit(found.exit_code)
