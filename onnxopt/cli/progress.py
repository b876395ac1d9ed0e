"""What a person sees while passes run: one line on a terminal, nothing in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from onnxopt.core.pipeline import Observer

if TYPE_CHECKING:
    import onnx_ir as ir
    from rich.status import Status


class _StatusLine(Observer):
    def __init__(self, status: Status) -> None:
        self._status = status

    def pass_started(self, names: Sequence[str], model: ir.Model) -> None:
        label = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
        self._status.update(f"{label} ({len(model.graph):,} nodes)")

    def working(self, what: str) -> None:
        self._status.update(what)


@contextmanager
def progress(*, quiet: bool) -> Iterator[list[Observer]]:
    """Observers for a pipeline; they draw on stderr if it is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield []
        return
    from rich.console import Console

    with Console(stderr=True).status("reading the model") as status:
        yield [_StatusLine(status)]
