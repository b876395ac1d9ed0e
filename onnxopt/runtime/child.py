"""A Python process beside this one, for native code that a model can crash or hang.

What ONNX Runtime does with a hostile graph ends that process and not this one, its memory goes back
to the system when it ends, and it starts while this process is still busy with other work.

Functions and their arguments travel as pickles over pipes between the two: both ends are ours, and
nothing that came from a model file is unpickled as such.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from onnxopt.core.errors import OnnxOptError

P = ParamSpec("P")
T = TypeVar("T")

# The child finds modules where this process does, whatever the folder it starts in.
_MAIN = (
    "import sys; sys.path[:] = {path!r}; "
    "from onnxopt.runtime.child import serve; serve({preload!r})"
)


class ChildEndedError(OnnxOptError):
    """The child ended before it answered: it crashed, was killed or took too long."""


class Child:
    """A process that runs functions, one after the other. Use it as a context manager.

    Args:
        preload: Modules that it imports at once, while nothing is asked of it yet.
    """

    def __init__(self, preload: tuple[str, ...] = ()) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed in __exit__)
        self._expired = False
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _MAIN.format(path=sys.path, preload=preload)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        # Closes the pipes as well.
        self._process.communicate()
        self._errors.close()

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls a function of a module in the child.

        Raises:
            ChildEndedError: The child ended first.
            OnnxOptError: What the function raised.
        """
        answer = self._ask(pickle.dumps((function, args, kwargs)))
        if isinstance(answer, OnnxOptError):
            raise answer
        result: T = answer[0]
        return result

    def call_within(self, seconds: float, function: Callable[..., T], *args: Any) -> T:
        """Calls a function like `call`, but ends the child if it takes longer."""
        timer = threading.Timer(seconds, self._expire)
        timer.start()
        try:
            return self.call(function, *args)
        except ChildEndedError as error:
            if self._expired:
                raise ChildEndedError(f"took more than {seconds:g} s and was stopped") from error
            raise
        finally:
            timer.cancel()

    def _expire(self) -> None:
        self._expired = True
        self._process.kill()

    def _ask(self, request: bytes) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(request)
            self._process.stdin.flush()
            return pickle.load(self._process.stdout)  # noqa: S301  (written by `serve`)
        except (BrokenPipeError, EOFError, pickle.UnpicklingError) as error:
            raise ChildEndedError(self._ending()) from error

    def _ending(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        lines = [line for line in self._errors.read().decode(errors="replace").splitlines() if line]
        said = f": {lines[-1].strip()[:200]}" if lines else ""
        if code < 0:
            try:
                name = signal.Signals(-code).name
            except ValueError:
                name = str(-code)
            return f"crashed ({name}){said}"
        return f"ended with exit code {code}{said}"


def serve(preload: tuple[str, ...]) -> None:
    """The child's side: answers requests until its input ends."""
    # An interrupt reaches the whole process group: the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what native code prints is no answer
    for module in preload:
        __import__(module)
    while True:
        try:
            function, args, kwargs = pickle.load(requests)  # noqa: S301  (written by `Child`)
        except EOFError:
            return
        try:
            answer: Any = (function(*args, **kwargs),)
        except OnnxOptError as error:
            answer = error
        answers.write(pickle.dumps(answer))
        answers.flush()
