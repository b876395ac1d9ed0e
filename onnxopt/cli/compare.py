"""`onnxopt compare A B`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxopt.cli.options import (
    html_option,
    input_shape_option,
    inputs_option,
    output_options,
    parse_input_shapes,
    provider_option,
    run_here,
)
from onnxopt.cli.output import say

if TYPE_CHECKING:
    from onnxopt.runtime.parity.comparison_result import ComparisonResult
    from onnxopt.runtime.parity.difference import Difference

_NOT_AT_PARITY = 3


@click.command("compare")
@click.argument("first", type=click.Path(path_type=Path), metavar="A")
@click.argument("second", type=click.Path(path_type=Path), metavar="B")
@inputs_option
@input_shape_option
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A .npy or .npz with one label for each row of --inputs: scores both models.",
)
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="NAME",
    help="How to score: top1, top5, mse, mae, cosine, f1, or module:function or file.py:function "
    "of predictions and labels. Repeatable.",
)
@click.option("--output", metavar="NAME", help="The output to score; the first by default.")
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    metavar="X",
    help="Largest error relative to an output's scale; from A's own noise by default.",
)
@provider_option
@click.option(
    "--threads", type=click.IntRange(min=1), metavar="N", help="Threads inside an operator."
)
@html_option
@output_options
@click.pass_context
def command(
    context: click.Context,
    first: Path,
    second: Path,
    inputs: str | None,
    input_shapes: tuple[str, ...],
    labels: Path | None,
    metrics: tuple[str, ...],
    output: str | None,
    tolerance: float | None,
    provider: str | None,
    threads: int | None,
    html: Path | None,
    as_json: bool,
    verbose: bool,
    quiet: bool,
) -> None:
    """Run two models on the same inputs and say whether they agree.

    Each output of B is held against that of A on several input sets and sizes. What may differ
    follows from what A differs from itself by at other optimization levels and thread counts.
    Exit code 3 if they are not at parity.
    """
    shapes = parse_input_shapes(input_shapes)
    provider, threads = run_here(provider, threads)
    from onnxopt.comparing import compare

    result = compare(
        first,
        second,
        inputs=inputs,
        input_shapes=shapes,
        labels=labels,
        metrics=metrics,
        output=output,
        tolerance=tolerance,
        provider=provider,
        threads=threads,
    )
    if html is not None:
        from onnxopt.cli.pages.compare_page import compare_page
        from onnxopt.cli.pages.parts import write_page
        from onnxopt.runtime.measuring.benchmarked import model_names

        first_name, second_name = model_names([first, second])
        write_page(compare_page(result, (first_name, second_name)), html)
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2))
    elif not quiet:
        _print(result, verbose)
    if not result.passed:
        context.exit(_NOT_AT_PARITY)


def _print(result: ComparisonResult, verbose: bool) -> None:
    from onnxopt.cli.tables import print_table

    header = ["output", "inputs", "max abs", "max rel", "cosine", "SQNR dB", "agreement"]
    rows, limits = [], []
    for one in result.outputs:
        parity = one.parity
        every = f"all {len(one.sets)}" if len(one.sets) > 1 else one.sets[0].inputs
        rows.append([parity.name, every, *_figures(parity.difference)])
        if verbose and len(one.sets) > 1:
            rows += [["", each.inputs, *_figures(each.difference)] for each in one.sets]
        noise = parity.noise
        limits.append(
            [
                parity.name,
                "" if noise is None else _noise(noise),
                _tolerance_of(parity.difference, parity.tolerance),
                parity.complaint or "ok",
            ]
        )
    print_table(header, rows)
    click.echo()
    print_table(["output", "A against itself", "tolerance", "verdict"], limits)
    masks = sorted({one.mask for one in result.outputs if one.mask})
    if masks:
        masked = ", ".join(one.parity.name for one in result.outputs if one.mask)
        say(f"padding by {', '.join(masks)} left out of: {masked}")
    for score in result.scores:
        click.echo(
            f"{score.metric}: A {score.first:.6g}, B {score.second:.6g} ({score.difference:+.3g})"
        )
    for note in result.notes:
        say(f"note: {note}")
    sets = f"{len(result.inputs)} input sets" if len(result.inputs) > 1 else "1 input set"
    if result.passed:
        click.echo(f"at parity on {sets}")
    else:
        say(f"not at parity on {sets}: {result.reasons[0]}")


def _figures(difference: Difference) -> list[str]:
    from onnxopt.runtime.parity.comparison_result import agreement, sqnr

    if difference.broken:
        return [difference.broken, *["-"] * 4]
    share = agreement(difference)
    agreed = "-" if share is None else f"{share:.2%}"
    if difference.kind != "float":
        largest = "-" if difference.kind == "text" else f"{difference.largest:g}"
        return [largest, "-", "-", "-", agreed]
    return [
        f"{difference.largest:.2e}",
        f"{difference.relative:.2e}",
        f"{difference.cosine:.6f}",
        f"{sqnr(difference):.1f}",
        agreed,
    ]


def _noise(noise: Difference) -> str:
    if noise.broken:
        return noise.broken
    if noise.kind != "float":
        return f"{noise.mismatches:.2%} differ"
    return f"rel {noise.relative:.1e}, rms {noise.rms:.1e}"


def _tolerance_of(difference: Difference, tolerance: object) -> str:
    from onnxopt.runtime.parity.tolerance import Tolerance

    assert isinstance(tolerance, Tolerance)
    if difference.kind != "float":
        return f"{tolerance.mismatches:.2%} differ"
    return f"rel {tolerance.relative:.1e}, rms {tolerance.rms:.1e}"
