"""The command line: a lazy click group, shared options, one module per command."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from types import FrameType

from onnxopt.cli.supervised import supervised

_CANNOT_WRITE = 4  # as for a result that cannot be saved


def main() -> None:
    """Entry point of the `onnxopt` command.

    An error that the user can act on is one line on stderr and a non-zero exit code. Ctrl-C and
    SIGTERM unwind the stack, so that temporary files are removed, and end with 128 + the signal.
    """
    sys.exit(supervised(_interruptible, _fail))


def _interruptible() -> int:
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as for a job in the background
            signal.signal(number, _terminate)
    return _run()


def _run() -> int:
    import click

    from onnxopt.cli.group import cli
    from onnxopt.core.errors import OnnxOptError

    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # names of files and inputs may be any bytes
            stream.reconfigure(errors="backslashreplace")
    stdout = sys.stdout
    try:
        # click itself would answer Ctrl-C with another exit code.
        code = cli.main(prog_name="onnxopt", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except OnnxOptError as error:
        return _fail(str(error), error.exit_code)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "onnxopt"
        message = " ".join(error.format_message().split())  # click breaks lines
        return _fail(f"{message} (see {command} --help)", error.exit_code)
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except click.Abort:  # Ctrl-C where its handler was not in place
        return 128 + signal.SIGINT
    except SystemExit as error:
        # To a closed pipe click (which replaces stdout then) and rich say 1, which means a bug.
        if sys.stdout is not stdout or isinstance(error.__context__, BrokenPipeError):
            return _output_failed(BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)))
        raise
    except OSError as error:
        return _output_failed(error)
    return code if isinstance(code, int) else 0


def _fail(message: str, code: int) -> int:
    from onnxopt.core.printable import printable

    with contextlib.suppress(OSError):  # then the exit code has to do
        print(f"onnxopt: error: {printable(message)}", file=sys.stderr)
    return code


def _output_failed(error: OSError) -> int:
    """The answer to a closed pipe or a full disk behind stdout."""
    # Python flushes once more at the end and must not meet the same error.
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if error.errno == errno.EPIPE:
        return 128 + getattr(signal, "SIGPIPE", 13)  # the reader has enough: nothing to say
    where = f"{error.filename}: " if error.filename else "cannot write the output: "
    return _fail(f"{where}{error.strerror or error}", _CANNOT_WRITE)


class Interrupted(SystemExit):
    """A signal: unlike `sys.exit()` in code of the user's, which is an error of that code."""


def _terminate(signum: int, frame: FrameType | None) -> None:
    # Some send it to the process and to its group; the second must not disturb the cleaning up.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise Interrupted(128 + signum)
