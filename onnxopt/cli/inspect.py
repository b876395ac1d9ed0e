"""`onnxopt inspect IN`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from onnxopt.cli.options import input_shape_option, output_options, parse_input_shapes
from onnxopt.core.printable import printable


@click.command("inspect")
@click.argument("model", type=click.Path(path_type=Path), metavar="IN")
@input_shape_option
@output_options
def command(
    model: Path, input_shapes: tuple[str, ...], as_json: bool, verbose: bool, quiet: bool
) -> None:
    """Show what a model is made of and what it costs.

    Operators, parameters, bytes by type, floating-point operations, inputs and outputs, opsets
    and the largest tensors of IN. Symbolic dimensions count as 1 unless --input-shape fixes them.
    """
    shapes = parse_input_shapes(input_shapes)
    from onnxopt.inspecting import inspect_model

    summary = inspect_model(model, input_shapes=shapes)
    if as_json:
        click.echo(json.dumps(summary.to_dict(), indent=2))
    elif not quiet:
        _print(summary.to_dict(), verbose)


def _print(summary: dict[str, Any], verbose: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    opsets = ", ".join(f"{domain or 'ai.onnx'} {v}" for domain, v in summary["opsets"].items())
    console.print(
        printable(
            f"IR version {summary['ir_version']}, opsets {opsets}, "
            f"producer {summary['producer'] or 'unknown'}"
        ),
        markup=False,
    )
    nodes = f"{summary['nodes']:,} nodes"
    if summary["subgraphs"]:
        nodes += f" ({summary['subgraphs']:,} subgraphs included)"
    unknown = (
        f", {summary['flops_unknown']:,} nodes not counted" if summary["flops_unknown"] else ""
    )
    console.print(
        f"{nodes}, {summary['parameters']:,} parameters, {summary['flops'] / 1e9:,.3f} GFLOP a run"
        f"{unknown}",
        markup=False,
    )
    for kind in ("inputs", "outputs"):
        for value in summary[kind]:
            console.print(
                printable(
                    f"{kind[:-1]:<7} {value['name']}: {value['type']}{_shape(value['shape'])}"
                ),
                markup=False,
            )
    limit = None if verbose else 15
    _table(console, Table("operator", "count"), list(summary["operators"].items()), limit)
    _table(
        console,
        Table("type", "bytes"),
        [(name, f"{count:,}") for name, count in summary["bytes_by_type"].items()],
        None,
    )
    rows = [(t["name"], t["type"], str(t["shape"]), f"{t['bytes']:,}") for t in summary["largest"]]
    _table(
        console, Table("largest tensors", "type", "shape", "bytes"), rows, None if verbose else 5
    )
    for note in summary["notes"]:
        console.print(printable(f"note: {note}"), markup=False)


def _shape(shape: list[int | str] | None) -> str:
    return " of unknown rank" if shape is None else f"[{', '.join(map(str, shape))}]"


def _table(console: Any, table: Any, rows: list[tuple[Any, ...]], limit: int | None) -> None:
    from rich.text import Text

    if not rows:
        return
    for row in rows[:limit]:
        table.add_row(*(Text(printable(str(cell))) for cell in row))
    if limit is not None and len(rows) > limit:
        table.add_row(f"... {len(rows) - limit} more (-v)")
    console.print(table)
