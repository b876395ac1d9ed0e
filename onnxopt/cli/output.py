"""How a command says what it did: text for a person, JSON for a program, or nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import click

from onnxopt.core.errors import ParityError
from onnxopt.core.printable import printable_lines


class Tellable(Protocol):
    """What can be told in both ways."""

    def to_dict(self) -> dict[str, Any]:
        """Everything, as what JSON can hold."""

    def to_text(self, *, verbose: bool = False) -> str:
        """Lines for a terminal."""


def show(result: Tellable, *, as_json: bool, verbose: bool, quiet: bool) -> None:
    """Prints a result on stdout as `--json`, `-v` and `-q` ask for."""
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2))
    elif not quiet:
        say(result.to_text(verbose=verbose))


@contextmanager
def failures_told(*, as_json: bool) -> Iterator[None]:
    """With `--json` the report of a run that is given up goes to stdout all the same."""
    try:
        yield
    except ParityError as error:
        if as_json and error.report is not None:
            click.echo(json.dumps(error.report.to_dict(), indent=2))
        raise


def say(text: str, *, err: bool = False) -> None:
    """Prints lines in which names of models and records may occur."""
    click.echo(printable_lines(text), err=err)
