"""The installed ONNX Runtime: its import, what its calls raise, and that as one line."""

from __future__ import annotations

import functools
import re
from typing import Any

from onnxopt.core.errors import MissingDependencyError, OnnxOptError, SaveError

_LONGEST_READ = 10_000
_LONGEST_REASON = 400
# "[ONNXRuntimeError] : 1 : FAIL : ", paths of ONNX Runtime's sources, the C++ signature after them.
_NOISE = re.compile(
    r"\[ONNXRuntimeError\] : \d+ : \w+ : |\S*/onnxruntime/\S+:\d+ |\S+\.(?:cc|h):\d+ |"
    r"(?:[\w:<>&*]+ )*?onnxruntime::[^()]*\([^()]*\)(?: const)?(?: \[with [^\]]*\])? "
)


class CannotRunError(OnnxOptError):
    """ONNX Runtime cannot load the model or cannot run it on these inputs.

    Attributes:
        reason: ONNX Runtime's message in one line.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def require_runtime() -> None:
    """Imports ONNX Runtime, so that it is known before any other work whether models can be run.

    Raises:
        MissingDependencyError: It is not installed, or does not load.
    """
    load_runtime()


def load_runtime() -> Any:
    """Imports ONNX Runtime.

    Raises:
        MissingDependencyError: It is not installed, or does not load.
    """
    advice = "pip install 'onnxopt[cpu]' (or 'onnxopt[gpu]'), or go without a check: --guard off"
    try:
        import onnxruntime
    except ImportError as error:
        _raise_interrupt(error)
        if isinstance(error, ModuleNotFoundError) and error.name == "onnxruntime":
            reason = "is needed to run models"
        else:
            reason = f"is installed but does not load ({one_line(error)})"
        raise MissingDependencyError(f"ONNX Runtime {reason}: {advice}") from error
    if not hasattr(onnxruntime, "InferenceSession"):  # a folder that an uninstallation left
        raise MissingDependencyError(f"ONNX Runtime is installed incompletely: {advice}")
    return onnxruntime


def _raise_interrupt(error: BaseException) -> None:
    """Raises the interrupt that an import in C made an ImportError of, if there is one."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (KeyboardInterrupt, SystemExit)):
            raise cause
        cause = cause.__cause__ or cause.__context__


def one_line(error: BaseException) -> str:
    """ONNX Runtime's message as one line, without its source paths and error codes."""
    # A message may hold names of any size, of which the expression takes quadratic time.
    start = str(error)[:_LONGEST_READ]
    text = " ".join(_NOISE.sub("", " ".join(start.split())).split())
    text = text.removesuffix("Please fix either the inputs/outputs or the model.").rstrip()
    text = text or type(error).__name__
    return text if len(text) <= _LONGEST_REASON else text[: _LONGEST_REASON - 3] + "..."


@functools.cache
def runtime_errors() -> tuple[type[Exception], ...]:
    """What its calls raise; its own exceptions have no base class but Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own: list[type[Exception]] = [
        item
        for item in vars(state).values()
        if isinstance(item, type) and issubclass(item, Exception)
    ]
    return (*own, RuntimeError, ValueError, TypeError, SaveError)
