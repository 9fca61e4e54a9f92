"""What widths and bits together would reach: the mixture for each of several speed-ups, and its cost."""

from __future__ import annotations

from collections import Counter
from typing import Any

from lathe.artefact.plan import BLOCK_KINDS, BlockKind, Plan
from lathe.compressor.pipeline.forecast import Forecaster
from lathe.compressor.pipeline.pareto import mean_bits

SPEEDUPS = (1.5, 2.0, 3.0, 4.0, 6.0)
"""Over the dense model as it is."""


def mixtures(forecaster: Forecaster) -> list[dict[str, Any]]:
    """Returns a forecast for each of `SPEEDUPS`; none where nothing is timed or bits are not searched.

    `plan` is None where a speed-up is out of reach. Other targets than latency are not looked at.
    """
    preflight, latencies = forecaster.preflight, forecaster.latencies
    if preflight.mixed is None or latencies is None or preflight.ends is None:
        return []
    rows = []
    for speedup in SPEEDUPS:
        limit = latencies.constraint(preflight.choices, preflight.ends.dense / speedup)
        plan = forecaster.best([limit])
        rows.append({"speedup": speedup} | (_facts(forecaster, plan) if plan else {"plan": None}))
    return rows


def _facts(forecaster: Forecaster, plan: Plan) -> dict[str, Any]:
    shape = forecaster.preflight.source.shape
    blocks = {kind: _formats(plan, kind) for kind in BLOCK_KINDS}
    return forecaster.facts(plan) | {"bits_per_weight": mean_bits(shape, plan), "blocks": blocks}


def _formats(plan: Plan, kind: BlockKind) -> dict[str, int]:
    """Returns how many blocks of a kind have each format: `float`, `8`, `4`, or are `dropped`."""
    there = {"attention": lambda layer: layer.kv_heads, "ffn": lambda layer: layer.ffn}[kind]
    found = Counter((str(layer.bits(kind) or "float")) if there(layer) else "dropped" for layer in plan)
    return {name: found[name] for name in ("float", "8", "4", "dropped") if found[name]}
