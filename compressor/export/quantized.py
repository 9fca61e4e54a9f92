"""Checkpoints for vLLM with quantized decoder matrices, from an artefact or a dense model."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from lathe.artefact.atomic_files import staged_directory, write_json
from lathe.artefact.errors import UserError
from lathe.artefact.manifest import write_manifest
from lathe.artefact.plan import Plan
from lathe.artefact.shipped_files import PLUGIN
from lathe.compressor.export.artefact import copy_report, open_model
from lathe.compressor.export.base import (
    CalibrationAsked,
    Export,
    WithText,
    destinations,
    quantizers,
    refuse_plan,
    rules_of,
)
from lathe.compressor.export.checkpoint import uneven_config, write_model
from lathe.compressor.export.compressed_tensors import SCHEME_OF, SCHEMES, Scheme, mixed_config
from lathe.compressor.export.quantized_tensors import QuantizedTensors
from lathe.compressor.export.vllm import write_plugin
from lathe.compressor.export.vllm_on_text import rounded_on_text
from lathe.compressor.model.checkpoint import Checkpoint


def export_quantized(
    model: str,
    output: Path,
    tensor_parallel: int = 1,
    plan: Path | None = None,
    asked: CalibrationAsked | None = None,
    *,
    scheme: str,
) -> dict[str, Any]:
    """Writes a quantized artefact or dense model for vLLM into a new directory; returns its summary.

    Matrices are rounded to nearest, one in memory at a time, or on the text that is asked for.

    Raises:
        UserError: the model is quantized already or cannot be read, vLLM cannot serve its widths like this,
            the text will not do, the output exists, or a plan says bits that all blocks have anyway.
    """
    refuse_plan(plan, scheme)
    job = open_model(model)
    check_quantized(job.source, job.plan, scheme, tensor_parallel)
    return write_quantized(job, output, SCHEMES[scheme], asked)


def write_quantized(
    job: Export, output: Path, scheme: Scheme | None = None, asked: CalibrationAsked | None = None
) -> dict[str, Any]:
    """Writes a quantized model as a directory that vLLM serves; returns the summary of the quantization.

    Args:
        job: The model.
        output: The directory, which must not exist.
        scheme: The scheme of all matrices of layers; None: each block has that of its bits in the plan.
        asked: Calibration text to round on; None: to nearest.

    Raises:
        UserError: the output exists, the text will not do, or the file system refuses.
    """
    if output.exists():
        raise UserError(f"{output} exists", "Choose another --output.")
    text: dict[str, Any] = {}
    if asked:
        bits = job.plan.in_bits(scheme.bits, 0) if scheme else job.plan
        job, text = rounded_on_text(job, bits, asked)
    tensors = QuantizedTensors(job, scheme or SCHEME_OF)
    quantization = scheme.config() if scheme else mixed_config(tensors.schemes)
    config = uneven_config(job.source, job.plan) | {"quantization_config": quantization}
    with staged_directory(output) as temporary:
        write_model(temporary, job.source, config, tensors.entries, tensors)
        write_plugin(temporary / PLUGIN)
        write_json(temporary / "plan.json", job.plan.to_json())
        summary = tensors.summary() | text
        copy_report(job, temporary, summary)
        write_manifest(temporary)
    return summary


def check_quantized(source: Checkpoint, plan: Plan, scheme: str, tensor_parallel: int = 1) -> None:
    """Checks that vLLM has kernels for a quantized plan, by the rules of `--for vllm-w4a16`.

    vLLM's CPU build also needs outputs in multiples of 32; they are, for every head size that it serves.

    Raises:
        UserError: it has none; names the layer, its widths and what would do.
    """
    destination = destinations.get(f"vllm-{scheme}")
    destination.check(source)
    rules_of([destination], source.shape.head_dim, tensor_parallel).check(plan)


for _scheme in SCHEMES:
    quantizers.add(f"vllm-{_scheme}", WithText(partial(export_quantized, scheme=_scheme)))
