"""Exporters talk much: all of it goes to a log file."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from onnxopt.core.errors import SaveError

_DESCRIPTORS = (1, 2)


@contextlib.contextmanager
def output_to(log: Path) -> Iterator[None]:
    """Appends what the block prints, logs and warns of to a file, native code included.

    Standard output and error belong to the whole process: other threads print there as well.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
    with (
        _log_errors(log),
        log.open("a", encoding="utf-8", errors="backslashreplace") as file,
    ):
        with (
            _logging_to(file),  # before the streams are redirected: it looks for them
            _descriptors_to(file.fileno()),
            contextlib.redirect_stdout(file),
            contextlib.redirect_stderr(file),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("default")
            yield
        file.flush()


@contextlib.contextmanager
def _log_errors(log: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SaveError(
            f"cannot write the exporters' output to {log}: {error.strerror or error}; free some "
            "space or set TMPDIR to another folder"
        ) from error


@contextlib.contextmanager
def _descriptors_to(target: int) -> Iterator[None]:
    saved = {}
    try:
        for number in _DESCRIPTORS:
            with contextlib.suppress(OSError):  # closed: nothing to save
                saved[number] = os.dup(number)
                os.dup2(target, number)
        yield
    finally:
        for number, copy in saved.items():
            os.dup2(copy, number)
            os.close(copy)


@contextlib.contextmanager
def _logging_to(file: TextIO) -> Iterator[None]:
    """Handlers keep the stream that they were made with: those of the console get the file.

    Handlers that are made inside the block, as the first import of a package does, take the file
    for the console; they get the console afterwards.
    """
    console = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    changed = []
    for handler in _stream_handlers():
        if any(handler.stream is stream for stream in console):
            changed.append((handler, handler.stream))
            handler.stream = file
    try:
        yield
    finally:
        for handler, stream in changed:
            handler.stream = stream
        for handler in _stream_handlers():
            if handler.stream is file:
                handler.stream = console[1]


def _stream_handlers() -> list[logging.StreamHandler[Any]]:
    known = [logging.getLogger(name) for name in list(logging.root.manager.loggerDict)]
    handlers = [handler for logger in (logging.root, *known) for handler in logger.handlers]
    return [handler for handler in handlers if isinstance(handler, logging.StreamHandler)]
