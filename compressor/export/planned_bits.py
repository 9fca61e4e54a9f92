"""Bits that a plan gives the blocks of a finished artefact or a dense model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lathe.artefact.errors import UserError
from lathe.artefact.plan import LayerShape, Plan
from lathe.compressor.export.artefact import export_of_artefact, is_artefact
from lathe.compressor.export.base import Export
from lathe.compressor.export.dense import alike
from lathe.compressor.model.checkpoint import open_checkpoint


def check_rounds(plan: Plan) -> None:
    """Checks that a plan gives bits.

    Raises:
        UserError: it does not.
    """
    if not plan.rounded:
        raise UserError(
            "the plan rounds no weights", "Give a --plan with bits, or leave --quantize mixed out."
        )


def planned_job(model: str, file: Path | None) -> Export:
    """Returns what to write: an artefact or a dense model, with the bits of a plan.

    Raises:
        UserError: the model cannot be read or is quantized already, or the plan is another model's.
    """
    if is_artefact(Path(model)):
        job = export_of_artefact(Path(model))
    elif file is None:
        raise UserError(f"no plan says the bits of {model}, a dense model", "Give a --plan with bits.")
    else:
        job = Export.whole(alike(open_checkpoint(model)))
    return job if file is None else replace(job, plan=_plan_for(job, file))


def _plan_for(job: Export, file: Path) -> Plan:
    """Reads a plan with the widths that a model has."""
    experts = job.source.shape.experts
    plan, own = Plan.load(file).with_experts(experts), job.plan.unrounded.with_experts(experts)
    if len(plan) != len(own):
        raise UserError(f"{file} has {len(plan)} layers; {job.source.path} has {len(own)}")
    for index, (asked, has) in enumerate(zip(plan.unrounded, own, strict=True)):
        if asked != has:
            raise UserError(
                f"{file} has other widths than {job.source.path}: layer {index} has {_widths(asked)} instead "
                f"of {_widths(has)}",
                "Widths are made by `lathe compress --plan`; this plan only says the bits.",
            )
    return plan


def _widths(layer: LayerShape) -> str:
    return f"{layer.query_heads} query heads, {layer.kv_heads} KV heads, {layer.ffn} channels"
