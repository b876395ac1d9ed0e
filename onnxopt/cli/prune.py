"""`onnxopt prune IN`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnxopt.cli.calibration_options import calibration_options
from onnxopt.cli.options import (
    beside,
    external_data_option,
    html_option,
    input_shape_option,
    output_option,
    output_options,
    parse_input_shapes,
    target_option,
)
from onnxopt.cli.output import failures_told, show
from onnxopt.core.errors import InvalidInputError

_SHARE = click.FloatRange(0, 1, min_open=True)


@click.command("prune")
@click.argument("model", type=click.Path(path_type=Path), metavar="IN")
@output_option("IN with .pruned (or .masked) before its suffix")
@click.option(
    "--sparsity",
    type=click.FloatRange(0, 1, max_open=True),
    metavar="S",
    help="Share of the channels, neurons and heads to remove.",
)
@click.option(
    "--target-flops", type=_SHARE, metavar="X", help="Operations to keep, as 0.5 for half of them."
)
@click.option("--target-size", type=_SHARE, metavar="X", help="Bytes of weights to keep, likewise.")
@click.option(
    "--target-latency",
    type=_SHARE,
    metavar="X",
    help="Time of a run to keep, likewise; measured here until it is met.",
)
@click.option(
    "--scope",
    type=click.Choice(["layer", "global"]),
    help="layer: the same share of every group, the default with --sparsity. global: one ranking, "
    "the default with a target; groups lose what costs least for what it gives.",
)
@click.option(
    "--importance",
    type=click.Choice(["auto", "l1", "l2", "random", "activation", "hessian", "taylor"]),
    default="auto",
    show_default=True,
    help="How units are ranked. l1, l2: magnitude of their weights. activation: what consumers "
    "lose. hessian: what they lose after the best repair. taylor: what the outputs lose, by "
    "gradients (needs PyTorch). auto: hessian with --calibration, else l2.",
)
@calibration_options
@click.option(
    "--repair/--no-repair",
    default=True,
    show_default=True,
    help="Re-fit the weights behind what was removed, where there is --calibration.",
)
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice(["channel", "head", "neuron", "feature", "block", "layer"]),
    help="Prune only these. Repeatable. block: whole residual branches. layer: attention and the "
    "feed-forward behind it at once. Both need --calibration, and go only if they are named.",
)
@click.option(
    "--widths", is_flag=True, help="Also prune what a normalization averages over; approximate."
)
@click.option(
    "--multiple",
    type=click.IntRange(min=1),
    metavar="N",
    help="Round widths to multiples of it; by default to what kernels like, 8, but finer in groups "
    "of fewer than 64 units.",
)
@click.option(
    "--exclude",
    multiple=True,
    metavar="GLOB",
    help="Leave the weights of nodes with such names, or of this op type, as they are. Repeatable.",
)
@click.option(
    "--vocabulary",
    "vocabulary_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Keep only the rows of embeddings of these token ids, one a line. Ids keep their meaning.",
)
@click.option(
    "--unknown",
    type=click.IntRange(min=0),
    metavar="ID",
    help="The kept token that all others become; the first one in --vocabulary by default.",
)
@click.option(
    "--narrow-outputs",
    is_flag=True,
    help="Let outputs over the vocabulary become as narrow, in the order of kept ids.",
)
@click.option(
    "--mask",
    type=click.Choice(["unstructured", "2:4"]),
    help="Instead of removing units set weights to zero: a share --sparsity of each, or two of "
    "every four inputs. Compressed files become smaller; ONNX Runtime runs them no faster. "
    "--importance l1 and l2: magnitude; activation: as Wanda; hessian: as SparseGPT.",
)
@click.option(
    "--max-error",
    type=click.FloatRange(min=0, min_open=True),
    metavar="X",
    help="Write nothing, and exit with 3, if the error of an output is larger: root mean square, "
    "relative, not the largest element as in `quantize`. Also with --mask.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="For --importance random.")
@click.option(
    "--budget",
    type=click.FloatRange(min=0, min_open=True),
    default=180.0,
    show_default=True,
    metavar="SECONDS",
    help="About how long --target-latency may measure.",
)
@target_option
@external_data_option
@html_option
@input_shape_option
@output_options
def command(
    model: Path,
    output: Path | None,
    input_shapes: tuple[str, ...],
    max_memory: int,
    html: Path | None,
    vocabulary_file: Path | None,
    unknown: int | None,
    narrow_outputs: bool,
    mask: str | None,
    as_json: bool,
    verbose: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Remove channels, neurons and heads, and re-fit the weights behind them.

    Give one of --sparsity, --target-flops, --target-size and --target-latency. The result has
    smaller tensors, so it is faster wherever it runs; inputs and outputs keep their shapes.
    """
    shapes = parse_input_shapes(input_shapes)
    if vocabulary_file is None and (unknown is not None or narrow_outputs):
        raise InvalidInputError("--unknown and --narrow-outputs go with --vocabulary FILE")
    options |= {"input_shapes": shapes, "max_memory": max_memory << 20}
    told: dict[str, Any] = {"as_json": as_json, "verbose": verbose, "quiet": quiet}
    if mask is not None:
        if vocabulary_file is not None:
            raise InvalidInputError("--vocabulary removes rows, --mask does not: one after another")
        from onnxopt.cli.masking import run_mask

        run_mask(model, output, mask, options, html=html, **told)
        return
    from onnxopt.cli.progress import progress
    from onnxopt.pruning import Vocabulary, prune

    vocabulary = None
    if vocabulary_file is not None:
        keep = _token_ids(vocabulary_file)
        vocabulary = Vocabulary(keep, keep[0] if unknown is None else unknown, narrow_outputs)

    with failures_told(as_json=as_json), progress(quiet=quiet or as_json) as observers:
        result = prune(
            model,
            output or beside(model, "pruned"),
            observers=observers,
            vocabulary=vocabulary,
            **options,
        )
    if html is not None:
        from onnxopt.cli.pages.anatomy import read_anatomy
        from onnxopt.cli.pages.parts import write_page
        from onnxopt.cli.pages.prune_page import prune_page

        write_page(prune_page(result.report, read_anatomy(result.report.output)), html)
    show(result.report, **told)


def _token_ids(path: Path) -> list[int]:
    """Reads one id a line.

    Raises:
        InvalidInputError: The file cannot be read, or a line is no id.
    """
    try:
        lines = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{path}: cannot read token ids: {error}") from error
    for place, line in enumerate(lines, start=1):
        if not line.isdecimal() or len(line) > 18:
            raise InvalidInputError(f"{path}: entry {place}, {line[:40]!r}, is no token id")
    if not lines:
        raise InvalidInputError(f"{path}: there are no token ids in it")
    return [int(line) for line in lines]
