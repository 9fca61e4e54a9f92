"""Rounding for vLLM on calibration text: with compensation, in the groups of its schemes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from lathe.artefact.plan import Plan
from lathe.compressor.compute.array_store import ArrayStore
from lathe.compressor.compute.progress import Progress
from lathe.compressor.export.base import CalibrationAsked, Export
from lathe.compressor.export.compressed_tensors import SCHEME_OF, Scheme
from lathe.compressor.export.on_text import read_text, round_all
from lathe.compressor.model.block_runner import Weights
from lathe.compressor.model.decoder import LayeredModel
from lathe.compressor.model.rounding import QuantizedMatrix
from lathe.compressor.reconstruction.rounded_block import AS_STORED, BlockRounding, Grams, round_in_groups
from lathe.compressor.reconstruction.rounding_pass import RoundingPass


def rounded_on_text(job: Export, plan: Plan, asked: CalibrationAsked) -> tuple[Export, dict[str, Any]]:
    """Returns a job with codes for the blocks that a plan gives bits, and what text they come from.

    Int8 products round activations, too, which is not part of what is compensated.

    Args:
        job: The model.
        plan: Its widths, and the bits.
        asked: The text.

    Raises:
        UserError: the text cannot be read, or is too little.
    """
    progress, store = Progress(asked.quiet), ArrayStore()
    text = read_text(job.source, asked, progress)
    model = LayeredModel.open(job.source, store)
    made = round_all(RoundingPass(model, plan, text.windows, text.heldout, store, method=_method), progress)
    return replace(job, rounded=made.get), {"calibration": text.facts}


def _method(bits: int) -> BlockRounding | None:
    return partial(_round_block, scheme=SCHEME_OF[bits]) if bits else None


def _round_block(
    weights: Weights, grams: Grams, solved: Weights = AS_STORED, *, scheme: Scheme
) -> dict[str, QuantizedMatrix]:
    """Rounds a block's matrices, as `BlockRounding` has it; scales are positive, as vLLM's format asks."""
    groups = {name: scheme.group or weights[name].shape[1] for name in grams}
    return round_in_groups(weights, grams, solved, scheme.bits, groups, signed=False)
