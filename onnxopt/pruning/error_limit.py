"""Whether what was taken from a model costs more than the user accepts."""

from __future__ import annotations

from onnxopt.core.errors import ParityError, Record
from onnxopt.runtime.parity.deviation import Deviation


def require_error(error: Deviation | None, limit: float | None, what: str, report: Record) -> None:
    """Raises if an error is over a limit.

    Args:
        error: As measured; None if it was not.
        limit: The largest root mean square, relative; None for any.
        what: What it comes from.
        report: The record of the run that is given up.

    Raises:
        ParityError: It is.
    """
    if limit is None or error is None or (error.rms <= limit and not error.broken):
        return
    found = error.broken or f"error {error.rms:.2%} (root mean square)"
    raise ParityError(
        f"{what}: {found}, more than {limit:.2%} (max-error); nothing was written: remove less, or "
        "fit on more data",
        report,
    )
