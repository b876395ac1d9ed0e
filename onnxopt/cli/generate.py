"""`onnxopt generate MODEL --prompt TEXT`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from onnxopt.cli.options import output_options, provider_option, run_here
from onnxopt.cli.output import say
from onnxopt.core.errors import InvalidInputError


@click.command("generate")
@click.argument("model", type=click.Path(path_type=Path), metavar="MODEL|FOLDER")
@click.option("--prompt", metavar="TEXT", help="The text to continue.")
@click.option("--tokens", metavar="N,N,...", help="Or its tokens.")
@click.option(
    "--tokenizer",
    metavar="FOLDER",
    help="Folder with a tokenizer.json, the model's by default; bytes if tokens are bytes.",
)
@click.option(
    "--max-tokens", type=click.IntRange(min=1), default=64, show_default=True, metavar="N",
    help="How many tokens to generate at most.",
)  # fmt: skip
@click.option(
    "--temperature", type=click.FloatRange(min=0), default=0.0, show_default=True,
    help="0 takes the most likely token.",
)  # fmt: skip
@click.option("--top-k", type=click.IntRange(min=0), default=0, help="Sample from so many only.")
@click.option(
    "--top-p", type=click.FloatRange(0, 1, min_open=True), default=1.0, help="Or so much."
)
@click.option("--seed", type=int, default=0, help="Of the samples.")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Threads of an operator.")
@provider_option
@output_options
def command(
    model: Path,
    prompt: str | None,
    tokens: str | None,
    tokenizer: str | None,
    max_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    threads: int | None,
    provider: str | None,
    as_json: bool,
    verbose: bool,
    quiet: bool,
) -> None:
    """Continue a prompt with a language model, and say how fast it is.

    The key/value cache stays in ONNX Runtime: one run for the prompt, then one for every token.
    """
    from onnxopt.generating import generate

    provider, threads = run_here(provider, threads)

    result = generate(
        model,
        prompt,
        tokens=None if tokens is None else _numbers(tokens),
        tokenizer=tokenizer,
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        threads=threads,
        provider=provider,
    )
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2))
        return
    click.echo(",".join(map(str, result.tokens)) if result.text is None else result.text)
    if not quiet:
        for note in result.notes:
            say(f"note: {note}", err=True)
        click.echo(
            f"{result.prompt_tokens} tokens of prompt in {result.prompt_seconds:.3f} s, "
            f"{len(result.tokens)} new ones, {result.tokens_per_second:.1f} tokens/s",
            err=True,
        )


def _numbers(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() and len(part) < 19 for part in parts):
        raise InvalidInputError(f"--tokens {text[:60]!r}: write whole numbers, as in 1,42,7")
    return [int(part) for part in parts]
