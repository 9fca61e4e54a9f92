"""Checkpoints with the values of one-bit weights, from an artefact or a dense model.

No engine multiplies by one-bit weights. What is written holds their values in the checkpoint's dtype, as
BiLLM's own code leaves them: it shows what they lose, and is no smaller. The summary, which the manifest has,
too, says how many bits a weight would take.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from lathe.artefact.atomic_files import staged_directory, write_json
from lathe.artefact.errors import UserError
from lathe.artefact.manifest import write_manifest
from lathe.compressor.compute.array_store import ArrayStore
from lathe.compressor.compute.progress import Progress
from lathe.compressor.export.artefact import copy_report, open_model
from lathe.compressor.export.base import CalibrationAsked, Export, OnText, check_known, quantizers
from lathe.compressor.export.checkpoint import write_checkpoint
from lathe.compressor.export.on_text import read_text
from lathe.compressor.model.decoder import LayeredModel
from lathe.compressor.model.names import layer_prefix
from lathe.compressor.model.rounded_tensors import Rounded, dequantized
from lathe.compressor.reconstruction.one_bit.block import OneBitBlocks
from lathe.compressor.reconstruction.one_bit.registry import binarizations
from lathe.compressor.reconstruction.rounding_pass import RoundingPass

SCHEMES = {"b1": "billm", "b1-arb": "arb", "b1-hbllm": "hbllm"}
"""The binarization of every scheme of `lathe export --to checkpoint --quantize SCHEME`."""
FORMAT = "checkpoint"
_NOTE = "The weights are stored as values, so the file is no smaller; no engine has a kernel for one bit."


def check_kernel(scheme: str, option: str) -> None:
    """Refuses one-bit weights where an engine is to multiply by them.

    Args:
        scheme: How weights are to be rounded.
        option: What asked for it.

    Raises:
        UserError: the scheme is one of one bit.
    """
    if scheme in SCHEMES:
        raise UserError(
            f"{option} cannot be served: ONNX Runtime, vLLM and PyTorch have no kernel for one-bit weights",
            f"`lathe export MODEL --to {FORMAT} --quantize {scheme}` writes a checkpoint with their values.",
        )


def export_one_bit(model: str, output: Path, asked: CalibrationAsked, *, scheme: str) -> dict[str, Any]:
    """Writes a binarized artefact or dense model into a new directory; returns its summary.

    Raises:
        UserError: the model is quantized already, has experts, or cannot be read; there is too little text;
            or the output exists.
    """
    if output.exists():
        raise UserError(f"{output} exists", "Choose another --output.")
    job = open_model(model)
    check_known(job.source, FORMAT)
    if job.source.shape.experts:
        raise UserError(
            f"{job.source.name} has experts, which --quantize {scheme} does not take",
            f"Export it to {FORMAT} as it is.",
        )
    blocks = OneBitBlocks(binarizations.get(SCHEMES[scheme]), job.source.dtype)
    tensor, amount = _binarized(job, blocks, asked)
    size = job.source.dtype.itemsize * job.source.shape.parameters(job.plan)
    summary = _summary(blocks, scheme, size) | {"calibration": amount}
    with staged_directory(output) as temporary:
        write_checkpoint(temporary, job.source, job.plan, tensor)
        write_json(temporary / "plan.json", job.plan.to_json())
        copy_report(job, temporary, summary)
        write_manifest(temporary, quantization=summary)
    return summary


def _binarized(
    job: Export, blocks: OneBitBlocks, asked: CalibrationAsked
) -> tuple[Callable[[str], torch.Tensor], dict[str, Any]]:
    """Returns what gives the tensors by name, and the calibration text that was read."""
    source, progress, store = job.source, Progress(asked.quiet), ArrayStore()
    text = read_text(source, asked, progress)
    model = LayeredModel.open(source, store)
    rounding = RoundingPass(model, job.plan, text.windows, text.heldout, store, method=lambda _: blocks)
    made: list[dict[str, torch.Tensor]] = []

    def below(index: int) -> Rounded:
        return {name: value.float() for name, value in made[index].items()}

    with progress.stage("one-bit weights: layers", len(job.plan)) as bar, torch.inference_mode():
        for index in range(len(job.plan)):
            layer = dequantized(rounding.layer(index, below))
            made.append({name: value.to(source.dtype) for name, value in layer.items()})
            bar.advance()
    by_name = {layer_prefix(i) + name: value for i, layer in enumerate(made) for name, value in layer.items()}
    return lambda name: by_name[name] if name in by_name else job.tensor(name), text.facts


def _summary(blocks: OneBitBlocks, scheme: str, size: int) -> dict[str, Any]:
    return {
        "scheme": scheme,
        "binarization": SCHEMES[scheme],
        "nominal_bits": blocks.storage.nominal,
        "effective_bits": blocks.storage.effective,
        "weight_bytes": {"before": size, "after": size},
        "relative_error": {"median": median(blocks.errors or [0]), "max": max(blocks.errors, default=0)},
        "note": _NOTE,
    }


for _scheme in SCHEMES:
    quantizers.add(f"{FORMAT}-{_scheme}", OnText(_scheme, partial(export_one_bit, scheme=_scheme)))
