"""`lathe export MODEL -o OUT`: the dense model in our formats."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from compressor.cli.common import emit


def export(
    model: Annotated[str, typer.Argument(help="A Hugging Face checkpoint directory, or a hub name.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The directory to write; it must not exist.")
    ],
    to: Annotated[str, typer.Option(help="Exporter: onnx or checkpoint.")] = "onnx",
    json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Export the dense MODEL as it is, all widths kept.

    Example: lathe export ./my-llama --to onnx -o my-llama-onnx
    """
    from compressor.export.dense import export_dense

    export_dense(model, output, to)
    if json:
        emit({"output": str(output), "exporter": to})
    else:
        typer.echo(f"{output}: written")
