"""report.json."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from lathe.artefact.plan import Plan
from lathe.compressor.compute.progress import Progress
from lathe.compressor.evaluate.samples import TOKENS
from lathe.compressor.latency.backend import versions_here
from lathe.compressor.latency.fingerprint import fingerprint
from lathe.compressor.latency.measure import Comparison
from lathe.compressor.latency.table import LatencyTable
from lathe.compressor.latency.workload import METRICS

if TYPE_CHECKING:  # the pipeline imports this module
    from lathe.compressor.pipeline.latency_loop import Iteration, LatencyLoop
    from lathe.compressor.pipeline.options import Options
    from lathe.compressor.pipeline.preflight import PreflightResult
    from lathe.compressor.pipeline.verify import Verified

FORMAT = "lathe-report/1"


def build_report(
    options: Options,
    card: PreflightResult,
    solver: LatencyLoop,
    chosen: Iteration,
    verified: Verified,
    met: bool | None,
    progress: Progress,
    quality_rounds: list[dict[str, Any]] | None,
    front: dict[str, Any] | None,
) -> dict[str, Any]:
    """Everything measured and chosen, as one JSON document; times in milliseconds, sizes in bytes."""
    shape, timing, workload = card.source.shape, verified.timing, card.meter.workload
    dense, plan = shape.dense_plan, chosen.plan
    width, drift = card.source.dtype.itemsize, solver.drift(timing) if timing else 1.0
    return {
        "format": FORMAT,
        "lathe": version("lathe"),
        "command": shlex.join(sys.argv),
        "model": {
            "name": card.source.name,
            "path": str(card.source.path),
            "family": card.source.family.model_type,
        },
        "method": card.method.name,
        "served": {
            "by": [*options.exports, *options.destinations],
            "exports": [*options.exports],
            "tensor_parallel": options.tensor_parallel,
        },
        "met": met,
        "latency": {
            "metric": workload.metric,
            "definition": METRICS[workload.metric],
            **{k: v for k, v in asdict(workload).items() if k != "metric"},
            "backend": options.backend,
            "threads": options.threads,
            "target_ms": _now(solver.target_ms, drift),
            "target_speedup": options.target_speedup,
            "tolerance": options.tolerance,
            "predicted_ms": _now(chosen.predicted_ms, drift),
            **_measured(timing),
            "profile": None
            if card.table is None
            else {"of": card.table.fingerprint, "estimate": card.table.estimate, "this_machine": card.here},
            "rounds": [r.row() for r in solver.rounds],
            "parts_ms": _parts(solver.table_now(timing), dense, plan, drift),
        },
        "max_perplexity_increase": {"asked": options.perplexity_increase, "rounds": quality_rounds},
        "perplexity": {
            "dense": verified.dense.perplexity,
            "subnet": verified.subnet.perplexity,
            "text": verified.evaluation_text,
            "tokens": verified.subnet.tokens,
        },
        "loss": {"dense": verified.dense.loss, "subnet": verified.subnet.loss, "unit": "nats per token"},
        "kl": {"search": chosen.fitness, "unit": "nats per token", "candidates": chosen.candidates},
        "parameters": {"dense": shape.parameters(dense), "subnet": shape.parameters(plan)},
        "decoder_parameters_kept": shape.kept(plan),
        "weight_bytes": {
            "dense": shape.weight_bytes(dense, width),
            "subnet": shape.weight_bytes(plan, width),
        },
        "kv_bytes_per_token": {
            "dense": shape.kv_bytes_per_token(dense, 4),
            "subnet": shape.kv_bytes_per_token(plan, 4),
        },
        "layers": [layer.to_json() for layer in plan],
        "dense_layer": shape.layer.to_json(),
        "parity": {
            "onnx_vs_transformers": verified.parity,
            "unit": "share of the logits' standard deviation",
        },
        **({"quantization": verified.rounding} if verified.rounding else {}),
        "front": front,
        "samples": {"tokens": TOKENS, "decoding": "greedy", "rows": verified.samples},
        "calibration": card.texts.calibration.to_json(),
        "warnings": progress.warnings,
        "machine": fingerprint(versions_here(card.meter.backend), options.threads),
        "seconds": {name: round(s, 3) for name, s in progress.seconds.items()},
        "peak_memory_bytes": progress.memory.run,
        "stage_peak_memory_bytes": progress.peaks,
        "memory": card.memory.to_json(),
        "device": {
            "name": options.device,
            "stage_peak_memory_bytes": progress.device.peaks if progress.device else None,
        },
        "seed": options.seed,
    }


def _measured(timing: Comparison | None) -> dict[str, Any]:
    """Milliseconds of the artefact beside dense; null where it has no export that could be timed."""
    if timing is None:
        return dict.fromkeys(("dense_ms", "measured_ms", "speedup", "turns_ms", "spread"))
    return {
        "dense_ms": timing.dense.median,
        "measured_ms": timing.subnet.median,
        "speedup": 1 / timing.ratio,
        "turns_ms": {"dense": timing.dense.turns, "subnet": timing.subnet.turns},
        "spread": {"dense": timing.dense.spread, "subnet": timing.subnet.spread},
    }


def _parts(table: LatencyTable | None, dense: Plan, plan: Plan, drift: float) -> dict[str, Any] | None:
    """Milliseconds by part as the table has them; what it learnt from artefacts is of the subnet."""
    if table is None:
        return None
    return {"dense": replace(table, correction=drift).parts(dense), "subnet": table.parts(plan)}


def _now(milliseconds: float | None, drift: float) -> float | None:
    return None if milliseconds is None else milliseconds * drift
