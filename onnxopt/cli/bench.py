"""`onnxopt bench A [B ...]`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from onnxopt.cli.options import (
    input_shape_option,
    inputs_option,
    output_options,
    parse_input_shapes,
    provider_option,
    run_here,
)
from onnxopt.cli.output import say
from onnxopt.core.errors import InvalidInputError

if TYPE_CHECKING:
    from onnxopt.runtime.measuring.benchmark_result import BenchmarkResult


@click.command("bench")
@click.argument(
    "models", type=click.Path(path_type=Path), metavar="A [B ...]", nargs=-1, required=True
)
@provider_option
@click.option(
    "--threads", type=click.IntRange(min=1), metavar="N", help="Threads inside an operator."
)
@click.option("--batch", type=click.IntRange(min=1), metavar="N", help="Batch size, if it is free.")
@input_shape_option
@inputs_option
@click.option(
    "--optimization-level",
    "optimization",
    type=click.Choice(["all", "extended", "basic", "disabled"]),
    default="all",
    show_default=True,
    help="How far ONNX Runtime rewrites the models on load.",
)
@click.option(
    "--disable-optimizer",
    "disabled",
    multiple=True,
    metavar="NAME",
    help="Leave out one of ONNX Runtime's optimizers. Repeatable.",
)
@click.option(
    "--saved-options",
    is_flag=True,
    help="Load every model with the level and without the optimizers that `optimize --guard full` "
    "saved in it.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=5.0,
    show_default=True,
    help="How long to measure, loading left out; up to four times as long on a busy machine.",
)
@click.option(
    "--sessions",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Sessions of each model: one model's sessions differ by some percent.",
)
@click.option(
    "--load/--no-load",
    default=True,
    help="Measure load time and peak memory too, in new processes.",
)
@click.option("--profile", is_flag=True, help="Add the time by operator and the slowest nodes.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Draw latencies and ratios to a .html (needs nothing) or .png (extra plot).",
)
@output_options
def command(
    models: tuple[Path, ...],
    provider: str | None,
    threads: int | None,
    batch: int | None,
    input_shapes: tuple[str, ...],
    inputs: str | None,
    optimization: Literal["all", "extended", "basic", "disabled"],
    disabled: tuple[str, ...],
    saved_options: bool,
    seconds: float,
    sessions: int,
    load: bool,
    profile: bool,
    plot: Path | None,
    as_json: bool,
    verbose: bool,
    quiet: bool,
) -> None:
    """Measure latency, memory and load time, and say which model is faster.

    All models run in interleaved rounds on the same inputs, each in several sessions. A ratio is to
    A, above 1 is faster than A, and comes with its 95 % interval; the verdict is "no difference"
    where that interval does not leave 1.
    """
    shapes = parse_input_shapes(input_shapes)
    provider, threads = run_here(provider, threads)
    if plot is not None and plot.suffix not in (".html", ".png"):
        raise InvalidInputError(f"--plot {plot}: the name has to end in .html or .png")
    if plot is not None:
        from onnxopt.cli.latency_plot import check_plot

        check_plot(plot)
    from onnxopt.benchmarking import benchmark

    result = benchmark(
        *models,
        inputs=inputs,
        input_shapes=shapes,
        batch=batch,
        provider=provider,
        threads=threads,
        optimization=optimization,
        disabled_optimizers=disabled,
        saved_options=saved_options,
        seconds=seconds,
        sessions=sessions,
        profile=profile,
        load=load,
    )
    if plot is not None:
        from onnxopt.cli.latency_plot import draw

        draw(result, plot)
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2))
    elif not quiet:
        _print(result, verbose)


def _print(result: BenchmarkResult, verbose: bool) -> None:
    from onnxopt.cli.tables import print_table

    settings = result.settings
    threads = settings["threads"] or "default"
    sessions, rounds = (
        f"{settings[what]} {what[:-1]}{'s' * (settings[what] > 1)}"
        for what in ("sessions", "rounds")
    )
    click.echo(
        f"{result.inputs}; {settings['provider']}, threads {threads}, "
        f"optimization {settings['optimization']}; {sessions} a model, {rounds}"
    )
    rows = []
    for model in result.models:
        load = model.load
        rows.append(
            [
                model.name,
                *(f"{model.percentile(p) * 1e3:.3f}" for p in (50, 90, 99)),
                f"{model.throughput:,.1f}",
                "?" if load is None else f"{load.load_seconds * 1e3:,.0f}",
                "?" if load is None or not load.peak_bytes else f"{load.peak_bytes / 1e6:,.0f}",
            ]
        )
    print_table(["model", "p50 ms", "p90 ms", "p99 ms", "items/s", "load ms", "peak MB"], rows)
    for model in result.models[1:]:
        if model.ratio is not None:
            click.echo(
                f"{model.name}: {model.ratio.verdict}, {model.ratio} of {result.models[0].name}"
            )
    for model in result.models:
        if model.profile is None:
            continue
        total = model.profile.seconds or 1.0
        for title, costs, short in (
            ("operator", model.profile.op_types, 10),
            ("slowest nodes", model.profile.nodes, 10),
        ):
            by_node = title != "operator"
            say(f"{model.name}: {total * 1e3:.3f} ms in nodes, slowed down by the profiler")
            print_table(
                [title, "operator" * by_node, "provider", "nodes", "ms", "share"],
                [
                    [c.name, c.op_type * by_node, c.provider, str(c.count),
                     f"{c.seconds * 1e3:.3f}", f"{c.seconds / total:.1%}"]
                    for c in (costs if verbose else costs[:short])
                ],
            )  # fmt: skip
    for note in result.notes:
        say(f"note: {note}")
