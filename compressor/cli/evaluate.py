"""`lathe evaluate MODEL... --text FILE`: perplexities by one and the same code."""

from __future__ import annotations

from typing import Annotated

import typer

from compressor.cli.common import emit


def evaluate(
    models: Annotated[list[str], typer.Argument(help="Checkpoint directories: dense, artefacts, or both.")],
    text: Annotated[str, typer.Option(help="A file, a folder or a data-set name.")],
    window: Annotated[int, typer.Option(help="Tokens per window; windows do not overlap.")] = 512,
    windows: Annotated[int, typer.Option(help="Windows at most; 0 takes all.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Perplexity of one or more models on the same text, in float32.

    Example: lathe evaluate ./my-llama out --text heldout.txt
    """
    from compressor.evaluate.compare import score

    rows = [score(model, text, window, windows) for model in models]
    if json:
        emit(rows)
        return
    for row in rows:
        typer.echo(
            f"{row['model']}: perplexity {row['perplexity']:.3f}, loss {row['loss']:.4f} nats/token "
            f"({row['tokens']:,} tokens)"
        )
