"""The last check of a file before it takes its place: ONNX Runtime opens it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from onnxopt.core.errors import OnnxOptError
from onnxopt.runtime.library import CannotRunError
from onnxopt.runtime.session import CPU, open_session


def opens(name: str, providers: Sequence[str] = CPU) -> Callable[[Path], None]:
    """What raises if a file does not open.

    Args:
        name: What to call it, as "the pruned model".
        providers: Execution providers in order of preference.
    """

    def verify(path: Path) -> None:
        try:
            open_session(path, spinning=False, providers=providers)
        except CannotRunError as error:
            raise OnnxOptError(f"{name} does not load: {error.reason}") from error

    return verify
