"""`onnxopt prune IN --mask PATTERN`: its options, and what it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from onnxopt.cli.options import beside
from onnxopt.cli.output import failures_told, show
from onnxopt.core.errors import InvalidInputError

# Options that choose which units go: as they are written, and what they are when not given.
_OF_UNITS: dict[str, tuple[str, object]] = {
    "target_flops": ("--target-flops", None),
    "target_size": ("--target-size", None),
    "target_latency": ("--target-latency", None),
    "scope": ("--scope", None),
    "kinds": ("--kind", ()),
    "widths": ("--widths", False),
    "multiple": ("--multiple", None),
}


def run_mask(
    model: Path,
    output: Path | None,
    pattern: str,
    options: dict[str, Any],
    *,
    html: Path | None,
    as_json: bool,
    verbose: bool,
    quiet: bool,
) -> None:
    """Masks and reports.

    Raises:
        OnnxOptError: An option is about units, or as `mask_weights` raises it.
    """
    for name, (option, default) in _OF_UNITS.items():
        if options.pop(name) != default:
            raise InvalidInputError(
                f"{option} is about whole units; --mask sets single weights to zero, a share "
                "--sparsity of each"
            )
    del options["budget"]
    from onnxopt.cli.progress import progress
    from onnxopt.pruning import mask_weights

    with failures_told(as_json=as_json), progress(quiet=quiet or as_json) as observers:
        report = mask_weights(
            model,
            output or beside(model, "masked"),
            pattern=pattern,
            observers=observers,
            **options,
        ).report
    if html is not None:
        from onnxopt.cli.pages.mask_page import mask_page
        from onnxopt.cli.pages.parts import write_page

        write_page(mask_page(report), html)
    show(report, as_json=as_json, verbose=verbose, quiet=quiet)
