"""The command in a process of its own, so that a crash of native code is one line as well.

ONNX Runtime can divide by zero or read beyond an array on a model that is valid. That ends the
process that it runs in, whatever Python does. So on Linux the command runs in a fork, made before
anything is imported, and the process that waits for it says how it ended.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

# What ends a process that nobody asked to end. SIGKILL is mostly the system's, out of memory.
_CRASHES = frozenset({"SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGSYS", "SIGKILL"})
_CRASHED = 1
_PR_SET_PDEATHSIG = 1


def supervised(run: Callable[[], int], fail: Callable[[str, int], int]) -> int:
    """Runs a command; the result is its exit code, also after a crash.

    Args:
        run: The command.
        fail: Says a line on stderr and gives the code back.
    """
    if sys.platform != "linux":
        return run()
    awaited = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        _end_with(parent)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return run()
    status = _wait_for(child, awaited)
    if status >= 0:
        os._exit(status)  # the child has said and flushed everything
    number = signal.Signals(-status)
    if number.name not in _CRASHES:
        return 128 + number
    if number == signal.SIGKILL:
        cause = "the command was killed, most likely for lack of memory"
    else:
        cause = f"native code crashed ({number.name}), most likely ONNX Runtime on this model"
    return fail(
        f"{cause}; the output was not written, or is whole; try other inputs or shapes", _CRASHED
    )


def _wait_for(child: int, awaited: set[signal.Signals]) -> int:
    """The child's exit code, negative for a signal; what others send to this process goes on."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, it would leave no exit code
    while True:
        info = signal.sigwaitinfo(awaited)
        if info.si_signo == signal.SIGCHLD:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
        elif info.si_code <= 0:  # from a process; Ctrl-C, of the kernel, has reached both
            os.kill(child, info.si_signo)


def _end_with(parent: int) -> None:
    """Has the system kill this process with the one that waits for it."""
    import ctypes  # not needed to wait

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it is gone already
        os._exit(_CRASHED)
