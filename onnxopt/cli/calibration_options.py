"""Options of the data that a command calibrates on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def calibration_options(function: F) -> F:
    """What `data_options` gives, and `--max-memory`."""
    option = click.option(
        "--max-memory",
        type=click.IntRange(min=1),
        default=1024,
        show_default=True,
        metavar="MB",
        help="Memory for what is observed, beyond the model and the activations of a run.",
    )
    return data_options(option(function))


def data_options(function: F) -> F:
    """`--calibration`, `--preprocess`, `--tokenizer` and `--samples`."""
    for option in (
        click.option(
            "--samples",
            type=click.IntRange(min=1),
            metavar="N",
            help="Use no more input sets than this.",
        ),
        click.option(
            "--tokenizer", type=click.Path(path_type=Path), metavar="FOLDER", help="For text."
        ),
        click.option(
            "--preprocess",
            metavar="HOW",
            help="For images: size=224,resize=256,scale=255,mean=0.485/0.456/0.406,std=...,"
            "channels=rgb,layout=nchw, or file.py:function of a path.",
        ),
        click.option(
            "--calibration",
            metavar="DATA",
            help="A .npz, a folder of .npz, .npy or images, a .txt or .jsonl file (with "
            "--tokenizer), or module:function or file.py:function that yields inputs by name (it "
            "is run).",
        ),
    ):
        function = option(function)
    return function
