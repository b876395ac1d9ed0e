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
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

from onnxopt.core.deferring import import_onnx_ir
from onnxopt.core.errors import OnnxOptError

P = ParamSpec("P")
T = TypeVar("T")

# The child finds modules where this process does, whatever the folder it starts in.
_MAIN = (
    "import sys; sys.path[:] = {path!r}; "
    "from onnxopt.runtime.child import serve; serve({preload!r}, {memory!r})"
)


class ChildEndedError(OnnxOptError):
    """The child ended before it answered.

    Attributes:
        crashed: A signal ended it, its own fault or not; otherwise it left by itself.
    """

    def __init__(self, message: str, *, crashed: bool) -> None:
        super().__init__(message)
        self.crashed = crashed


class Child:
    """A process that runs functions, one after the other. Close it, or use `contextlib.closing`.

    Args:
        preload: Modules that it imports at once, while nothing is asked of it yet.
        seconds: It is stopped if a call takes longer.
        memory: Bytes that it may allocate, files that it maps left out; what it asks for beyond
            fails there. Without effect where the system has no such limit.
    """

    def __init__(
        self,
        preload: tuple[str, ...] = (),
        *,
        seconds: float | None = None,
        memory: int | None = None,
    ) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed in close)
        self._seconds = seconds
        self._expired = False
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-c",
                _MAIN.format(path=sys.path, preload=preload, memory=memory),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )

    def close(self) -> None:
        """Ends the process, whatever it does."""
        self._process.kill()
        # Closes the pipes as well.
        self._process.communicate()
        self._errors.close()

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls a function of a module in the child.

        Raises:
            ChildEndedError: The child ended first.
            Exception: What the function raised, with the child's traceback as a note.
        """
        with self._limit():
            answer = self._ask(pickle.dumps((function, args, kwargs)))
        if isinstance(answer, BaseException):
            raise answer
        result: T = answer[0]
        return result

    @contextmanager
    def _limit(self) -> Iterator[None]:
        if self._seconds is None:
            yield
            return
        timer = threading.Timer(self._seconds, self._expire)
        timer.start()
        try:
            yield
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
            raise self._ending() from error

    def _ending(self) -> ChildEndedError:
        code = self._process.wait()
        if self._expired:
            message = f"took more than {self._seconds:g} s and was stopped"
            return ChildEndedError(message, crashed=True)
        self._errors.seek(0)
        lines = [line for line in self._errors.read().decode(errors="replace").splitlines() if line]
        said = f": {lines[-1].strip()[:200]}" if lines else ""
        if code < 0:
            try:
                name = signal.Signals(-code).name
            except ValueError:
                name = str(-code)
            return ChildEndedError(f"crashed ({name}){said}", crashed=True)
        return ChildEndedError(f"ended with exit code {code}{said}", crashed=False)


def all_memory() -> int | None:
    """What this machine has; more would only make it swap."""
    if not hasattr(os, "sysconf"):
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


# Activations of real models that are run at small sizes, and what their weights are packed into.
_MEMORY_BESIDE, _COPIES = 2 << 30, 16


def fair_memory(weights: int) -> int | None:
    """What running a model may take, so that one that grows without end does not fill the machine.

    Args:
        weights: Bytes of the model's file, or of its weights.
    """
    everything = all_memory()
    return None if everything is None else min(everything, _MEMORY_BESIDE + _COPIES * weights)


def serve(preload: tuple[str, ...], memory: int | None) -> None:
    """The child's side: answers requests until its input ends."""
    if memory is not None and sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    # An interrupt reaches the whole process group: the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what native code prints is no answer
    if preload:
        import_onnx_ir()
    for module in preload:
        __import__(module)
    while True:
        try:
            function, args, kwargs = pickle.load(requests)  # noqa: S301  (written by `Child`)
        except EOFError:
            return
        try:
            answer: Any = (function(*args, **kwargs),)
        except BaseException as error:  # noqa: BLE001  (the caller's to handle, on the other side)
            answer = error
        answers.write(_pickled(answer))
        answers.flush()


def _pickled(answer: Any) -> bytes:
    """An answer for the parent; of an error that cannot travel, what it says."""
    if not isinstance(answer, BaseException):
        return pickle.dumps(answer)
    answer.add_note("".join(traceback.format_exception(answer)))
    try:
        data = pickle.dumps(answer)
        pickle.loads(data)  # noqa: S301  (own bytes: fails if the error takes other arguments)
    except (pickle.PicklingError, TypeError, AttributeError):
        data = pickle.dumps(RuntimeError(f"{type(answer).__name__}: {answer}"))
    return data
