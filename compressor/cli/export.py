"""`lathe export MODEL -o OUT`: a dense model in our formats, or an artefact in one more, also quantized."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from lathe.artefact.command_options import Argument, Option, command_of
from lathe.artefact.errors import UserError
from lathe.compressor.cli.common import emit

GRAPHS = ("onnx", "genai")
"""The exporters that write an ONNX graph."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """The options of `lathe export`."""

    model: Annotated[
        str,
        Argument(
            help="A checkpoint directory, a GGUF file, a hub name, or an artefact (vllm, gguf, genai, "
            "quantized)."
        ),
    ]
    output: Annotated[
        Path | None,
        Option(
            flags=("--output", "-o"),
            help="The directory to write; it must not exist. Without it, a dense model's ONNX graph goes to "
            "Lathe's cache, where `lathe serve` looks for it.",
        ),
    ] = None
    to: Annotated[str, Option(help="Exporter: onnx, checkpoint, vllm, gguf or genai.")] = "onnx"
    tensor_parallel: Annotated[
        int, Option(help="Devices that share every layer (vllm): refuse widths that they cannot share.")
    ] = 1
    kv_cache: Annotated[
        str | None,
        Option(
            help="int8 (onnx, genai): keys and values in 8 bits, a quarter of the memory, by scales from the "
            "calibration text.",
            unset="float",
        ),
    ] = None
    quantize: Annotated[
        str | None,
        Option(
            help="int8 or int4 for onnx: weights only, in groups by --group-size. "
            "w4a16 (4-bit weights, groups of 32: widths in multiples of 32) or w8a8 (int8) for vllm, or "
            "mixed, which gives each block what the plan says. f32, bf16, f16, q8_0, q5_1, q5_0, q4_1, q4_0, "
            "q6_k, q5_k or q4_k for gguf: llama.cpp's types; int8, int4 and mixed: Lathe's rounding in q8_0 "
            "and q4_0. By rounding to nearest. b1 (BiLLM), b1-arb or "
            "b1-hbllm for checkpoint: the values of one-bit weights, on calibration text; no engine has a "
            "kernel for them."
        ),
    ] = None
    plan: Annotated[
        Path | None,
        Option(
            help="For --quantize mixed: a file like plan.json with the model's widths and the bits of each "
            "block (none, 8 or 4).",
            unset="the artefact's own",
        ),
    ] = None
    group_size: Annotated[
        str,
        Option(
            help="Columns that share a scale in the ONNX graph's rounded weights: `auto`, what the error "
            "of each matrix allows; `adaptive`, by the range of its weights (FineQuant); 32, 64, 128 or 256, "
            "or the next fewer that fit a matrix."
        ),
    ] = "auto"
    calibration: Annotated[
        str | None,
        Option(
            help="Files or folders (separated by commas), a data set, or `self`: the text that one-bit "
            "weights (b1) and the scales of --kv-cache int8 are fitted on, and weights for vLLM are rounded "
            "on, instead of to nearest.",
            unset="self for b1 and --kv-cache int8",
        ),
    ] = None
    calibration_tokens: Annotated[
        int | None, Option(help="The number of calibration tokens to use.", unset="16384")
    ] = None

    def __post_init__(self) -> None:
        devices = self.tensor_parallel
        if self.plan is not None and not self.quantize:
            raise UserError("--plan says bits, and nothing is quantized", "Give --quantize mixed, too.")
        if devices < 1:
            raise UserError(f"--tensor-parallel {devices} is not a number of devices", "Give at least 1.")
        if devices > 1 and self.to != "vllm":
            raise UserError(f"--tensor-parallel does not go with --to {self.to}", "It is for --to vllm.")
        if self.group_size != "auto" and not (self.quantize and self.to in GRAPHS):
            raise UserError(
                f"--group-size {self.group_size} is for rounded weights of an ONNX graph",
                "Add --to onnx --quantize int8 or int4, or leave it out.",
            )
        self._check_cache()

    def _check_cache(self) -> None:
        from lathe.compressor.pipeline.option_values import INT8_CACHE, check_kv_cache

        check_kv_cache(self.kv_cache)
        if self.kv_cache == INT8_CACHE and self.to not in GRAPHS:
            raise UserError(
                f"--kv-cache int8 does not go with --to {self.to}", f"It is for --to {' or '.join(GRAPHS)}."
            )


@command_of(ExportOptions)
def export(
    options: ExportOptions,
    json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Export the dense MODEL with all its widths, or an artefact for another engine.

    Either can be quantized.

    Examples:
      lathe export ./my-llama --to onnx -o my-llama-onnx

      lathe export out --to onnx --quantize int4 -o out-int4

      lathe export ./my-llama --quantize int4 --group-size adaptive -o my-llama-int4

      lathe export out --to onnx --kv-cache int8 --calibration notes.txt -o out-kv8

      lathe export out --to genai -o out-genai

      lathe export out --to vllm --tensor-parallel 2 -o out-vllm

      lathe export out --to gguf --quantize q4_0 -o out-gguf

      lathe export out --to vllm --quantize w4a16 -o out-w4a16

      lathe export out --to vllm --quantize mixed --plan bits.json -o out-mixed

      lathe export ./my-llama --to checkpoint --quantize b1 --calibration prompts.jsonl -o my-llama-b1
    """
    output, summary = _export(options, quiet=json)
    note = {"quantization" if options.quantize else "weights": summary} if summary else {}
    cache = {"kv_cache": options.kv_cache} if options.kv_cache else {}
    if json:
        emit({"output": str(output), "exporter": options.to} | note | cache)
    else:
        typer.echo(f"{output}: written" + (f", {_summary(summary)}" if note else ""))


def _export(options: ExportOptions, quiet: bool) -> tuple[Path, dict[str, Any]]:
    """Returns where the model was written, and what became of the weights, where that is known."""
    from lathe.compressor.export import exporters
    from lathe.compressor.export.artefact import export_artefact, is_artefact, open_model, rewrite
    from lathe.compressor.export.dense import dense_artefact, export_dense
    from lathe.compressor.model.groups import RULES, check_group_size

    check_group_size(options.group_size)
    model, output, to, devices = options.model, options.output, options.to, options.tensor_parallel
    quantizer = _quantizer(options, quiet)
    if output is None:
        if to != "onnx" or quantizer or is_artefact(Path(model)):
            raise UserError(
                "there is no --output", "Only the ONNX graph of a dense model is kept in the cache."
            )
        return dense_artefact(model), {}
    if quantizer:
        return output, quantizer(model, output, devices, options.plan, RULES[options.group_size])
    if exporters.get(to).takes_artefacts:
        return output, rewrite(open_model(model), output, to)
    if is_artefact(Path(model)) or exporters.get(to).adds_to(Path(model)):
        export_artefact(Path(model), output, to, devices)
    else:
        export_dense(model, output, to, devices)
    return output, {}


def _quantizer(options: ExportOptions, quiet: bool) -> Callable[..., dict[str, Any]] | None:
    """Returns what quantizes, with the calibration text where it reads one; None where nothing does."""
    from lathe.compressor.export.base import CalibrationAsked, OnText, WithText, quantizers
    from lathe.compressor.export.one_bit import FORMAT, check_kernel
    from lathe.compressor.export.onnx_int8_cache import WithInt8Cache
    from lathe.compressor.pipeline.option_values import INT8_CACHE

    to, scheme = options.to, options.quantize
    if scheme and to != FORMAT:
        check_kernel(scheme, f"--to {to} --quantize {scheme}")
    found = quantizers.get(f"{to}-{scheme}") if scheme else None
    text, tokens = options.calibration, options.calibration_tokens
    given, usual = (text, tokens) != (None, None), CalibrationAsked()
    asked = CalibrationAsked(text or usual.text, tokens or usual.tokens, quiet)
    if options.kv_cache == INT8_CACHE:
        return WithInt8Cache(f"{to}-{scheme}" if scheme else to, asked)
    if isinstance(found, OnText) or (isinstance(found, WithText) and given):
        return replace(found, asked=asked)
    if given:
        what = f"--quantize {scheme}" if scheme else "an export as it is"
        raise UserError(
            f"{what} reads no calibration text",
            "Leave --calibration out; it is for b1, for vLLM and for --kv-cache int8.",
        )
    return found


def _summary(summary: dict[str, Any]) -> str:
    """Returns what became of the weights, for people."""
    before, after = (summary["weight_bytes"][when] / 2**20 for when in ("before", "after"))
    told = f"weights {before:.1f} -> {after:.1f} MiB"
    if types := summary.get("types"):
        sizes = (f"{name} {facts['bytes'] / 2**20:.1f}" for name, facts in types.items())
        told += f" ({', '.join(sizes)})"
    if "scheme" in summary:
        error = summary["relative_error"]
        told = (
            f"{summary['scheme']}, {told}; quantization moved the matrices by {error['median']:.1%} (median) "
            f"to {error['max']:.1%}"
        )
    if "effective_bits" in summary:
        told += (
            f". Stored in one bit, a weight would take {summary['effective_bits']:.2f} bits: "
            f"{summary['nominal_bits']:.2f} of signs, the rest masks and scales. {summary['note']}"
        )
    if "llama_cpp" in summary:
        told += f". {_checked(summary['llama_cpp'])}"
    return told


def _checked(parity: dict[str, Any] | None) -> str:
    """Returns how far llama.cpp's logits are from the reference."""
    if parity is None:
        return "llama.cpp is not installed, so its logits were not checked (pip install 'lathe[llamacpp]')"
    return (
        f"llama.cpp's logits differ from ours by {parity['rms']:.1e} of their spread (at most "
        f"{parity['largest']:.1e})"
    )
