"""Writes the parts of the documentation that follow from the code.

python docs/generate.py          rewrite them: the README's table of passes, commands.md, passes.md
python docs/generate.py --check  fail if they are out of date
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import click

from onnxopt.cli.group import COMMANDS, cli
from onnxopt.passes import PASSES

DOCS = Path(__file__).resolve().parent
README = DOCS.parent / "README.md"
START, END = "<!-- passes -->", "<!-- /passes -->"


def pass_table() -> str:
    """One row per pass: its name and the first line of its docstring."""
    rows = [f"| `{cls.name}` | {(inspect.getdoc(cls) or '').splitlines()[0]} |" for cls in PASSES]
    return "\n".join(["| pass | what it does |", "|---|---|", *rows])


def readme() -> str:
    """The README with its table of passes."""
    before, _, rest = README.read_text(encoding="utf-8").partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n{pass_table()}\n{END}{after}"


def commands_page() -> str:
    """Every command's help."""
    parts = ["# Commands", "Generated from the commands' own help (`onnxopt COMMAND --help`)."]
    for name in sorted(COMMANDS):
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        context = click.Context(
            command, info_name=f"onnxopt {name}", terminal_width=92, max_content_width=92
        )
        parts += [f"## onnxopt {name}", f"```text\n{command.get_help(context)}\n```"]
    return "\n\n".join(parts) + "\n"


def passes_page() -> str:
    """Every pass: the docstrings of its class and of its module."""
    parts = [
        "# Passes",
        "Generated from the passes' docstrings. Options follow a name in braces, as in "
        "`fold-constants{max-growth=0}`.",
    ]
    for cls in sorted(PASSES, key=lambda one: one.name):
        module = inspect.getdoc(sys.modules[cls.__module__]) or ""
        parts += [f"## {cls.name}", f"```text\n{inspect.getdoc(cls)}\n\n{module}\n```"]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Rewrites or checks everything."""
    wanted = {
        README: readme(),
        DOCS / "commands.md": commands_page(),
        DOCS / "passes.md": passes_page(),
    }
    for path, text in wanted.items():
        current = path.read_text(encoding="utf-8") if path.exists() else ""
        if "--check" in sys.argv and current != text:
            sys.exit(f"{path.name} is out of date; run python docs/generate.py")
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
