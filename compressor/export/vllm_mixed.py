"""Checkpoints for vLLM in which a plan says the bits of every block's weights: W4A16, W8A8, or as they are.

vLLM 0.32 has no kernels for 8-bit weights with float activations on a CPU, nor for quantized embeddings:
8 bits are int8 products there, and embedding and head stay as they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lathe.artefact.errors import UserError
from lathe.artefact.plan import BLOCK_KINDS, BlockKind, LayerShape, Plan
from lathe.artefact.width_rules import WidthRules
from lathe.compressor.export.base import CalibrationAsked, WithText, quantizers
from lathe.compressor.export.compressed_tensors import SCHEME_OF
from lathe.compressor.export.planned_bits import check_rounds, planned_job
from lathe.compressor.export.quantized import write_quantized
from lathe.compressor.export.vllm import FOUR_BIT_MULTIPLE, check_four_bit, check_quantized_model
from lathe.compressor.model.checkpoint import Checkpoint

NAME = "vllm-mixed"


def export_mixed(
    model: str,
    output: Path,
    tensor_parallel: int = 1,
    plan: Path | None = None,
    asked: CalibrationAsked | None = None,
) -> dict[str, Any]:
    """Writes an artefact or a dense model for vLLM, with the bits of each block from a plan.

    It writes a new directory and returns the summary of the quantization.

    Args:
        model: The artefact, or a dense model (path or hub name).
        output: The directory, which must not exist.
        tensor_parallel: The number of devices that are to share every layer.
        plan: A file with the bits; by default an artefact's own plan says them.
        asked: Calibration text to round on; None: matrices are rounded to nearest.

    Raises:
        UserError: the model cannot be read or is quantized already, the plan is another model's or has
            formats that vLLM lacks, the text will not do, or the output exists.
    """
    job = planned_job(model, plan)
    check_mixed(job.source, job.plan, tensor_parallel)
    return write_quantized(job, output, asked=asked)


def check_mixed(source: Checkpoint, plan: Plan, devices: int = 1) -> None:
    """Checks that vLLM has kernels for every block's width and bits.

    Raises:
        UserError: the plan rounds nothing, or vLLM cannot serve it; names the first block that it cannot.
    """
    check_rounds(plan)
    if plan.head_bits:
        raise UserError(
            f"the plan is for another engine: it has embedding and head in {plan.head_bits} bits, and vLLM "
            "serves them only as they are",
            "Give a --plan without `head_bits`.",
        )
    four = any(layer.bits(kind) == 4 for layer in plan for kind in BLOCK_KINDS)
    (check_four_bit if four else check_quantized_model)(source)
    WidthRules(devices).check(plan)
    rules = WidthRules.of(devices, FOUR_BIT_MULTIPLE, source.shape.head_dim)
    for index, layer in enumerate(plan):
        for kind in BLOCK_KINDS:
            _check_block(index, layer, kind, rules)


def _check_block(index: int, layer: LayerShape, kind: BlockKind, rules: WidthRules) -> None:
    bits, block = layer.bits(kind), f"the {kind} block of layer {index}"
    if bits and bits not in SCHEME_OF:
        raise UserError(
            f"the plan is for another engine: it has {block} in {bits} bits, for which vLLM has no kernel",
            f"It has kernels for {' and '.join(map(str, sorted(SCHEME_OF)))} bits.",
        )
    if bits != 4:
        return
    attention = kind == "attention"
    if attention and not rules.allow_attention(layer.query_heads, layer.kv_heads):
        width, multiple, what = layer.query_heads, rules.heads, "query heads"
    elif not attention and not rules.allow_ffn(layer.ffn):
        width, multiple, what = layer.ffn, rules.channels, "channels"
    else:
        return
    each = f" on each of {rules.devices} devices" if rules.devices > 1 else ""
    raise UserError(
        f"vLLM has no 4-bit kernel for {block} with {width} {what}{each}",
        f"It takes multiples of {multiple}{each}; give the block 8 bits, or other widths.",
    )


quantizers.add(NAME, WithText(export_mixed))
