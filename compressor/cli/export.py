"""`lathe export MODEL -o OUT`: the dense model in our formats, or an artefact for vLLM."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from compressor.cli.common import emit


def export(
    model: Annotated[
        str, typer.Argument(help="A checkpoint directory, a hub name, or (for vllm) an artefact.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The directory to write; it must not exist.")
    ],
    to: Annotated[str, typer.Option(help="Exporter: onnx, checkpoint or vllm.")] = "onnx",
    tensor_parallel: Annotated[
        int, typer.Option(help="Devices that share every layer (vllm): refuse widths that they cannot share.")
    ] = 1,
    json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Export the dense MODEL as it is, all widths kept; or copy an artefact and add what vLLM needs.

    Examples:

      lathe export ./my-llama --to onnx -o my-llama-onnx

      lathe export out --to vllm --tensor-parallel 2 -o out-vllm
    """
    from compressor.errors import UserError
    from compressor.export.artefact import export_artefact, is_artefact
    from compressor.export.dense import export_dense

    if tensor_parallel < 1:
        raise UserError(f"--tensor-parallel {tensor_parallel} is not a number of devices", "Give at least 1.")
    if tensor_parallel > 1 and to != "vllm":
        raise UserError(f"--tensor-parallel does not go with --to {to}", "It is for --to vllm.")
    if is_artefact(Path(model)):
        export_artefact(Path(model), output, to, tensor_parallel)
    else:
        export_dense(model, output, to, tensor_parallel)
    if json:
        emit({"output": str(output), "exporter": to})
    else:
        typer.echo(f"{output}: written")
