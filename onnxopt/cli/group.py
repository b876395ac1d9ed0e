"""The `onnxopt` group. Commands are imported when they run: `--help` costs click alone."""

from __future__ import annotations

import copy
import functools
import importlib
from collections.abc import Callable
from typing import Any

import click

from onnxopt import __version__
from onnxopt.core.deferring import import_onnx_ir

# Command to its module, and the line that `onnxopt --help` shows without importing it; a test
# checks that the line is the first one of the command's own help.
COMMANDS = {
    "bench": (
        "onnxopt.cli.bench",
        "Measure latency, memory and load time, and say which model is faster.",
    ),
    "bundle": (
        "onnxopt.cli.bundle",
        "Pack a model with its session options, samples and proof, ready to ship.",
    ),
    "compare": (
        "onnxopt.cli.compare",
        "Run two models on the same inputs and say whether they agree.",
    ),
    "convert": (
        "onnxopt.cli.convert",
        "Convert a model to float16 or bfloat16, and keep what overflows in float32.",
    ),
    "diagnose": (
        "onnxopt.cli.diagnose",
        "Find the nodes at which a model starts to differ from another.",
    ),
    "explain": (
        "onnxopt.cli.explain",
        "Say which rewrites a model gets, which it just misses, and why.",
    ),
    "export": (
        "onnxopt.cli.export",
        "Export a PyTorch or Hugging Face model, and prove that it is right.",
    ),
    "generate": (
        "onnxopt.cli.generate",
        "Continue a prompt with a language model, and say how fast it is.",
    ),
    "inspect": ("onnxopt.cli.inspect", "Show what a model is made of and what it costs."),
    "optimize": ("onnxopt.cli.optimize", "Make a model smaller and faster, and prove that it is."),
    "passes": ("onnxopt.cli.passes", "List the passes, or explain one."),
    "prune": (
        "onnxopt.cli.prune",
        "Remove channels, neurons and heads, and re-fit the weights behind them.",
    ),
    "quantize": (
        "onnxopt.cli.quantize",
        "Make an 8-bit model that is faster than float and close to it.",
    ),
    "recover": (
        "onnxopt.cli.recover",
        "Train a pruned or quantized model to give what the original gives.",
    ),
    "verify": (
        "onnxopt.cli.verify",
        "Check that a bundle is what it was, and that it computes the same here.",
    ),
}


class LazyGroup(click.Group):
    """A group that imports a command's module only when that command is run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports and returns the command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(COMMANDS[cmd_name][0])
        command: click.Command = copy.copy(module.command)
        command.callback = _starting_quickly(module.command.callback)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the commands with their summaries, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])


def _starting_quickly(callback: Callable[..., Any]) -> Callable[..., Any]:
    """The function of a command with a quick import before it, which --help needs none of."""

    @functools.wraps(callback)
    def run(*arguments: Any, **options: Any) -> Any:
        import_onnx_ir()
        return callback(*arguments, **options)

    return run


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="onnxopt")
def cli() -> None:
    """Make ONNX models fast and small without breaking them."""
