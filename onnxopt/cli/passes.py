"""`onnxopt passes [NAME]`."""

from __future__ import annotations

import dataclasses
import inspect
import json
import sys
from collections.abc import Mapping
from typing import Any

import click

from onnxopt.cli.options import output_options


@click.command("passes")
@click.argument("name", required=False)
@output_options
def command(name: str | None, as_json: bool, verbose: bool, quiet: bool) -> None:
    """List the passes, or explain one.

    NAME is the pass to explain: what it rewrites, what it refuses, and its options.
    """
    from onnxopt.passes import PASSES, find_pass

    chosen = [find_pass(name, PASSES)] if name else list(PASSES)
    if as_json:
        click.echo(json.dumps([_describe(cls) for cls in chosen], indent=2))
    elif quiet:
        return
    elif name or verbose:
        click.echo("\n\n".join(_explain(cls) for cls in chosen))
    else:
        width = max(len(cls.name) for cls in chosen)
        for cls in chosen:
            click.echo(f"{cls.name:<{width}}  {_summary(cls)}")


def _summary(cls: type[Any]) -> str:
    return (inspect.getdoc(cls) or "").partition("\n")[0]


def _options(cls: type[Any]) -> dict[str, dict[str, Any]]:
    from onnxopt.passes.parsing import option_types

    types = option_types(cls)
    return {
        field.name.replace("_", "-"): {
            "type": getattr(types[field.name.replace("_", "-")], "__name__", None)
            or str(types[field.name.replace("_", "-")]),
            "default": _plain(field.default),
        }
        for field in dataclasses.fields(cls)
    }


def _plain(value: Any) -> Any:
    """The default as JSON has it; data that only Python hands over has none."""
    if isinstance(value, Mapping):
        return dict(value)
    return None if value is dataclasses.MISSING else value


def _describe(cls: type[Any]) -> dict[str, Any]:
    return {
        "name": cls.name,
        "class": cls.__name__,
        "summary": _summary(cls),
        "documentation": inspect.getdoc(sys.modules[cls.__module__]) or "",
        "options": _options(cls),
    }


def _explain(cls: type[Any]) -> str:
    text = [
        f"{cls.name} ({cls.__name__})",
        "",
        inspect.getdoc(cls) or "",
        "",
        inspect.getdoc(sys.modules[cls.__module__]) or "",
    ]
    options = _options(cls)
    if options:
        text += ["", "Options (write them as NAME{option=value}):"]
        text += [f"  {key}: {spec['type']} = {spec['default']}" for key, spec in options.items()]
    return "\n".join(text)
