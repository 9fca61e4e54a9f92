"""What a row says of its artefact besides what is measured here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lathe.artefact.plan import BLOCK_KINDS, BlockKind, LayerShape, ModelShape, Plan
from lathe.artefact.report_format import REPORT

_FLOAT32, _UNIFORM = 32, {"int8": 8, "int4": 4}


def facts(artefact: Path, shape: ModelShape, scheme: str | None) -> dict[str, Any]:
    """Returns a row's plan, and what `compress` reported where it made the artefact."""
    plan = Plan.load(artefact / "plan.json")
    found: dict[str, Any] = {
        "plan": plan.to_json(),
        "decoder_parameters_kept": shape.kept(plan),
        "mean_bits": mean_bits(shape, plan, scheme),
    }
    if not (artefact / REPORT).is_file():
        return found
    report = json.loads((artefact / REPORT).read_text())
    return found | {
        "met": report["met"],
        "speedup_reported": report["latency"]["speedup"],
        "target_speedup_of_its_format": report["latency"]["target_speedup"],
        "seconds": round(sum(report["seconds"].values()), 1),
    }


def mean_bits(shape: ModelShape, plan: Plan, scheme: str | None) -> float:
    """Returns the bits of a decoder's weights, in the mean over those that a plan keeps; scales do not count.

    Args:
        shape: The dense model.
        plan: The widths, and the bits of blocks where they differ.
        scheme: The format of the graph.
    """
    uniform = _UNIFORM.get(scheme or "", _FLOAT32)
    counted = [
        (_parameters(shape, layer, kind), layer.bits(kind) or uniform)
        for layer in plan
        for kind in BLOCK_KINDS
    ]
    return sum(count * bits for count, bits in counted) / sum(count for count, _ in counted)


def _parameters(shape: ModelShape, layer: LayerShape, kind: BlockKind) -> int:
    return shape.attention_parameters(layer) if kind == "attention" else shape.ffn_parameters(layer)
