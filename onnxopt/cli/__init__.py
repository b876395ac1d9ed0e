"""The command line: a lazy click group, shared options, one module per command."""

from __future__ import annotations

import signal
import sys
from types import FrameType


def main() -> None:
    """Entry point of the `onnxopt` command.

    An error that the user can act on is one line on stderr and a non-zero exit code. Ctrl-C and
    SIGTERM unwind the stack, so that temporary files are removed.
    """
    from onnxopt.cli.group import cli
    from onnxopt.core.errors import OnnxOptError

    signal.signal(signal.SIGTERM, _terminate)
    try:
        cli.main(prog_name="onnxopt")
    except OnnxOptError as error:
        print(f"onnxopt: error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _terminate(signum: int, frame: FrameType | None) -> None:
    sys.exit(128 + signum)
