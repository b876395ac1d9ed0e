"""Options of what goes into a bundle."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import PureWindowsPath
from typing import TYPE_CHECKING, Any, TypeVar

import click

from onnxopt.core.errors import InvalidInputError

if TYPE_CHECKING:
    from onnxopt.bundling import BundleOptions

F = TypeVar("F", bound=Callable[..., Any])

# An absolute path: alone, right behind a short option, or behind what names it (`x=/a`, `f:/a`).
# What follows it is taken for a part of it, since folders may have any character in their names.
_ABSOLUTE = re.compile(r"(|-\w|.*?[=:,])((?:[A-Za-z]:)?[\\/].*)", re.DOTALL)
_NAMES = ("tune_session", "bundle_seconds", "ort_format", "archive", "overwrite")


def bundle_options(function: F) -> F:
    """`--tune-session`, `--bundle-seconds`, `--ort`, `--zip` and `--overwrite`."""
    for option in (
        click.option("--overwrite", is_flag=True, help="Replace an earlier bundle."),
        click.option("--zip", "archive", is_flag=True, help="Write the bundle as a .zip as well."),
        click.option(
            "--ort", "ort_format", is_flag=True, help="Add the model in ONNX Runtime's own format."
        ),
        click.option(
            "--bundle-seconds",
            type=click.FloatRange(min=0),
            metavar="SECONDS",
            help="How long to time the bundled model, 3 by default; 0 leaves it out.",
        ),
        click.option(
            "--tune-session",
            is_flag=True,
            help="Search for faster session options (threads, optimization level, arena and more); "
            "what is not proven faster is left as it is. Takes up to a minute.",
        ),
    ):
        function = option(function)
    return function


def take_bundle_options(options: dict[str, Any], *, wanted: bool, inputs: Any) -> BundleOptions:
    """Takes the options of bundles out of all options.

    Raises:
        InvalidInputError: One is given although no bundle is made.
    """
    own = {name: options.pop(name) for name in _NAMES}
    given = [name for name, value in own.items() if value not in (None, False)]
    if given and not wanted:
        flag = {"ort_format": "ort", "archive": "zip"}.get(given[0], given[0].replace("_", "-"))
        raise InvalidInputError(f"--{flag} is for bundles: give --bundle DIR as well")
    from onnxopt.bundling import BundleOptions

    seconds = own["bundle_seconds"]
    return BundleOptions(
        inputs=inputs,
        tune=own["tune_session"],
        **({} if seconds is None else {"seconds": seconds}),
        ort_format=own["ort_format"],
        archive=own["archive"],
        overwrite=own["overwrite"],
        command=("onnxopt", *map(_without_folder, sys.argv[1:])),
    )


def _without_folder(argument: str) -> str:
    """An argument of the command line for the record, which tells nobody the user's folders."""
    found = _ABSOLUTE.fullmatch(argument)
    return argument if found is None else found[1] + PureWindowsPath(found[2]).name
