"""`lathe export MODEL -o OUT`: the dense model in our formats, or an artefact for vLLM, also quantized."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lathe.compressor.cli.common import emit


def export(
    model: Annotated[
        str, typer.Argument(help="A checkpoint directory, a hub name, or an artefact (vllm, quantized).")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The directory to write; it must not exist. Without it, a dense model's ONNX graph goes to "
            "Lathe's cache, where `lathe serve` looks for it.",
            show_default=False,
        ),
    ] = None,
    to: Annotated[str, typer.Option(help="Exporter: onnx, checkpoint or vllm.")] = "onnx",
    tensor_parallel: Annotated[
        int, typer.Option(help="Devices that share every layer (vllm): refuse widths that they cannot share.")
    ] = 1,
    quantize: Annotated[
        str | None,
        typer.Option(
            help="int8 or int4 for onnx: weights only, groups chosen by each matrix's error. w4a16 (4-bit "
            "weights, groups of 32: widths in multiples of 32) or w8a8 (int8) for vllm. Rounded to nearest."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Export the dense MODEL with all its widths, or copy an artefact and add what vLLM needs.

    Either can be quantized.

    Examples:
      lathe export ./my-llama --to onnx -o my-llama-onnx

      lathe export out --to onnx --quantize int4 -o out-int4

      lathe export out --to vllm --tensor-parallel 2 -o out-vllm

      lathe export out --to vllm --quantize w4a16 -o out-w4a16
    """
    from lathe.artefact.errors import UserError
    from lathe.compressor.export import quantizers
    from lathe.compressor.export.artefact import export_artefact, is_artefact
    from lathe.compressor.export.dense import dense_artefact, export_dense

    if tensor_parallel < 1:
        raise UserError(f"--tensor-parallel {tensor_parallel} is not a number of devices", "Give at least 1.")
    if tensor_parallel > 1 and to != "vllm":
        raise UserError(f"--tensor-parallel does not go with --to {to}", "It is for --to vllm.")
    quantization: dict[str, Any] = {}
    if output is None:
        if to != "onnx" or quantize or is_artefact(Path(model)):
            raise UserError(
                "there is no --output", "Only the ONNX graph of a dense model is kept in the cache."
            )
        output = dense_artefact(model)
    elif quantize:
        quantization = quantizers.get(f"{to}-{quantize}")(model, output, tensor_parallel)
    elif is_artefact(Path(model)):
        export_artefact(Path(model), output, to, tensor_parallel)
    else:
        export_dense(model, output, to, tensor_parallel)
    if json:
        emit({"output": str(output), "exporter": to} | ({"quantization": quantization} if quantize else {}))
    else:
        typer.echo(f"{output}: written" + (f", {_summary(quantization)}" if quantize else ""))


def _summary(quantization: dict[str, Any]) -> str:
    before, after = (quantization["weight_bytes"][when] / 2**20 for when in ("before", "after"))
    error = quantization["relative_error"]
    return (
        f"{quantization['scheme']}, weights {before:.1f} -> {after:.1f} MiB; quantization moved the matrices "
        f"by {error['median']:.1%} (median) to {error['max']:.1%}"
    )
