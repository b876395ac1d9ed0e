"""Errors that a user can act on: one line that says what is wrong, where, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol


class OnnxOptError(Exception):
    """Base of every error that onnxopt raises on purpose.

    The command line prints `str(error)` as one line and exits with `exit_code`.
    """

    exit_code: ClassVar[int] = 1


class InvalidInputError(OnnxOptError):
    """An argument or an option cannot be used: a missing file, an unknown pass, a bad shape."""

    exit_code: ClassVar[int] = 2


class InvalidModelError(OnnxOptError):
    """The model file, its graph or its external data is broken or unsafe."""

    exit_code: ClassVar[int] = 2


class SaveError(OnnxOptError):
    """The result could not be written; nothing half-written is left behind."""

    exit_code: ClassVar[int] = 4


class Record(Protocol):
    """The report of a command."""

    def to_dict(self) -> dict[str, Any]:
        """Everything, as what JSON can hold."""


class ParityError(OnnxOptError):
    """The optimized model does not compute what the original computes; no file is written.

    Attributes:
        report: The report of the run that was given up.
        crashed: ONNX Runtime did not fail on the result but crashed, in a process of its own.
    """

    exit_code: ClassVar[int] = 3

    def __init__(
        self, message: str, report: Record | None = None, *, crashed: bool = False
    ) -> None:
        super().__init__(message)
        self.report = report
        self.crashed = crashed


class PassFailedError(OnnxOptError):
    """A pass raised, or left an invalid model. Names the pass and those that ran before it.

    Attributes:
        passes: The pass, or the passes that shared the run in which one of them raised.
        reason: What it raised.
    """

    def __init__(self, message: str, passes: Sequence[str] = (), reason: str = "") -> None:
        super().__init__(message)
        self.passes = tuple(passes)
        self.reason = reason


class MissingDependencyError(OnnxOptError):
    """An optional package is needed; the message names the extra that installs it."""

    exit_code: ClassVar[int] = 2
