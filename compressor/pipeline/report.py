"""Builds report.json: everything measured and chosen, times in milliseconds, sizes in bytes."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from lathe.artefact.fingerprint import fingerprint
from lathe.artefact.plan import Plan
from lathe.artefact.report_format import (
    REPORT_FORMAT,
    Front,
    KvCacheFacts,
    LatencyFacts,
    LatencyParts,
    Measured,
    Parity,
    PatternFacts,
    PruningLimit,
    QualityFacts,
    QuantizationFacts,
    Report,
    ResourceFacts,
    SizeFacts,
    VocabularyFacts,
)
from lathe.compressor.evaluate.samples import TOKENS
from lathe.compressor.latency.backend import versions_here
from lathe.compressor.latency.comparison import Comparison
from lathe.compressor.latency.limit import pruning_limit
from lathe.compressor.latency.workload import METRICS
from lathe.compressor.pipeline.latency_loop import Iteration, LatencyLoop
from lathe.compressor.pipeline.outcome import Status
from lathe.compressor.pipeline.preflight_result import PreflightResult
from lathe.compressor.pipeline.run_context import RunContext
from lathe.compressor.pipeline.served_memory import cache_value_bytes
from lathe.compressor.pipeline.verify import Verified
from lathe.compressor.pipeline.vocabulary import vocabulary_rows

_MET = {Status.DONE: True, Status.MISSED: False, Status.UNMEASURED: None}


@dataclass(frozen=True)
class Compression:
    """The results of a compression.

    Attributes:
        loop: The latency loop, with its table and iterations.
        iteration: The one whose plan was made.
        verified: What was measured on the artefact.
        status: Whether the targets are met.
        quality_rounds: The rounds of the quality loop; None without one.
        front: What other budgets would have given; None where it is not known.
    """

    loop: LatencyLoop
    iteration: Iteration
    verified: Verified
    status: Status
    quality_rounds: list[dict[str, Any]] | None
    front: Front | None


def build_report(context: RunContext, result: Compression) -> Report:
    """Returns the report as one JSON document."""
    options, preflight, verified = context.options, context.preflight, result.verified
    return {
        "format": REPORT_FORMAT,
        "lathe": version("lathe"),
        "command": shlex.join(sys.argv),
        "model": {
            "name": preflight.source.name,
            "path": str(preflight.whole.path),
            "family": preflight.source.family.model_type,
        },
        "method": preflight.method.name,
        "served": {
            "by": [*options.exports, *options.destinations],
            "exports": [*options.exports],
            "tensor_parallel": options.tensor_parallel,
        },
        "met": _MET[result.status],
        "latency": _latency(context, result),
        "max_perplexity_increase": {"asked": options.perplexity_increase, "rounds": result.quality_rounds},
        **_quality(result.iteration, verified),
        **_sizes(preflight, result.iteration.plan, cache_value_bytes(options, preflight.source)),
        "parity": _parity(options.graph_kind, verified),
        **_pattern(context, verified),
        **_quantization(verified),
        **_cache(verified),
        **_vocabulary(preflight, verified),
        "front": result.front,
        "samples": {"tokens": TOKENS, "decoding": "greedy", "rows": verified.samples},
        "calibration": preflight.texts.calibration.to_json(),
        "warnings": context.progress.warnings,
        **_resources(context),
        "seed": options.seed,
    }


def _latency(context: RunContext, result: Compression) -> LatencyFacts:
    """Returns the workload, the target, and what was predicted and measured."""
    options, preflight, loop = context.options, context.preflight, result.loop
    workload, timing = preflight.benchmark.workload, result.verified.timing
    predicted, drift = result.iteration.predicted_ms, loop.drift(timing)
    dense, plan = preflight.source.shape.dense_plan, result.iteration.plan
    parts = _parts(loop, timing, dense, plan)
    return {
        "metric": workload.metric,
        "definition": METRICS[workload.metric],
        "batch_size": workload.batch_size,
        "context": workload.context,
        "output_tokens": workload.output_tokens,
        "backend": options.backend,
        "threads": options.threads,
        "target_ms": loop.reported_target_ms(timing),
        "target_speedup": options.speedup,
        "tolerance": options.tolerance,
        "predicted_ms": None if predicted is None else predicted * drift,
        **_measured(timing),
        "profile": _profile(preflight),
        "rounds": [iteration.row() for iteration in loop.iterations],
        "parts_ms": parts,
        "precision": {
            "table": loop.table.precision if loop.table else None,
            "artefact": timing.precision if timing else None,
        },
        "pruning_limit": _limit(loop, timing, dense, preflight.choices.smallest.head_bits),
    }


def _measured(timing: Comparison | None) -> Measured:
    """Returns the artefact's milliseconds against dense; null where no export could be timed."""
    if timing is None:
        return {"dense_ms": None, "measured_ms": None, "speedup": None, "turns_ms": None, "spread": None}
    return {
        "dense_ms": timing.dense.median,
        "measured_ms": timing.subnet.median,
        "speedup": 1 / timing.ratio,
        "turns_ms": {"dense": timing.dense.repeats, "subnet": timing.subnet.repeats},
        "spread": {"dense": timing.dense.spread, "subnet": timing.subnet.spread},
    }


def _profile(preflight: PreflightResult) -> dict[str, Any] | None:
    """Returns the machine of the profile that was given, if one was."""
    table = preflight.table
    if table is None:
        return None
    return {"of": table.fingerprint, "estimate": table.estimate, "this_machine": preflight.on_this_machine}


def _parts(loop: LatencyLoop, timing: Comparison | None, dense: Plan, plan: Plan) -> LatencyParts | None:
    """Returns milliseconds by part as the table has them; its corrections by artefacts are the subnet's.

    What the given model takes more than one with the kept vocabulary is in the head.
    """
    measured, learnt = loop.measured_table, loop.table_at(timing)
    if measured is None or learnt is None:
        return None
    given = measured.corrected(loop.drift(timing)).parts(dense)
    given["head"] = given.get("head", 0.0) + _cut_ms(loop, timing)
    return {"dense": given, "subnet": learnt.parts(plan)}


def _cut_ms(loop: LatencyLoop, timing: Comparison | None) -> float:
    """Returns the milliseconds that cutting the vocabulary alone saves; 0 where it is whole."""
    return (loop.gain - 1) * loop.table.dense_ms * loop.drift(timing) if loop.table else 0.0


def _limit(loop: LatencyLoop, timing: Comparison | None, dense: Plan, head_bits: int) -> PruningLimit | None:
    """Returns what no block's pruning shortens, with the vocabulary that is kept.

    Args:
        loop: The latency loop.
        timing: What was measured on the artefact.
        dense: The dense plan.
        head_bits: The fewest bits that embedding and head may have.

    Returns:
        The limit; None without a table, or with one by which nothing but the blocks takes any time.
    """
    if loop.measured_table is None:
        return None
    table = loop.measured_table.corrected(loop.drift(timing))
    head = table.head_in(head_bits)
    left = table.parts(dense)["step"] + head
    return pruning_limit(table.predict(dense) + _cut_ms(loop, timing), left, head) if left > 0 else None


def _quality(iteration: Iteration, verified: Verified) -> QualityFacts:
    """Returns perplexity, loss and the search's KL."""
    dense, subnet = verified.dense, verified.subnet
    return {
        "perplexity": {
            "dense": dense.perplexity,
            "subnet": subnet.perplexity,
            "text": verified.evaluation_text,
            "tokens": subnet.tokens,
        },
        "loss": {"dense": dense.loss, "subnet": subnet.loss, "unit": "nats per token"},
        "kl": {"search": iteration.fitness, "unit": "nats per token", "candidates": iteration.candidates},
    }


def _parity(kind: str, verified: Verified) -> Parity:
    """Returns how far the engine of the graph is from transformers."""
    gguf = kind == "gguf"
    found: Parity = {
        "onnx_vs_transformers": None if gguf else verified.parity,
        "unit": "share of the logits' standard deviation",
    }
    return {**found, "llama_cpp_vs_transformers": verified.parity} if gguf else found


def _pattern(context: RunContext, verified: Verified) -> PatternFacts:
    """Returns the pattern of the weights, where they have one."""
    if verified.zeros is None:
        return {}
    name, method = str(context.preflight.pattern), context.options.pattern_rule
    return {"pattern": {"name": name, "method": method, "zeros": verified.zeros}}


def _quantization(verified: Verified) -> QuantizationFacts:
    """Returns what quantization did, where weights are quantized."""
    return {"quantization": verified.quantization} if verified.quantization else {}


def _cache(verified: Verified) -> KvCacheFacts:
    """Returns the KV cache of the graph, where it is int8."""
    return {"kv_cache": verified.cache} if verified.cache else {}


def _vocabulary(preflight: PreflightResult, verified: Verified) -> VocabularyFacts:
    """Returns what was kept of the vocabulary, where it was cut."""
    if preflight.vocabulary is None or verified.loss_per_byte is None:
        return {}
    rows = vocabulary_rows(preflight.vocabulary)
    return {"vocabulary": {**rows, "loss_per_byte": verified.loss_per_byte}}


def _sizes(preflight: PreflightResult, plan: Plan, cache_bytes: int) -> SizeFacts:
    """Returns parameters, bytes and the widths of every layer; the cache has so many bytes for a value."""
    shape, width = preflight.source.shape, preflight.source.dtype.itemsize
    whole, dense = preflight.whole.shape, shape.dense_plan
    sizes: SizeFacts = {
        "parameters": {"dense": whole.parameters(dense), "subnet": shape.parameters(plan)},
        "decoder_parameters_kept": shape.kept(plan),
        "weight_bytes": {
            "dense": whole.weight_bytes(dense, width),
            "subnet": shape.weight_bytes(plan, width),
        },
        "kv_bytes_per_token": {
            "dense": shape.kv_bytes_per_token(dense, cache_bytes),
            "subnet": shape.kv_bytes_per_token(plan, cache_bytes),
        },
        "layers": [layer.to_json() for layer in plan],
        "dense_layer": shape.layer.to_json(),
    }
    if plan.head_bits:
        sizes["head_bits"] = plan.head_bits
    return sizes


def _resources(context: RunContext) -> ResourceFacts:
    """Returns the machine, and the time and memory that the run took."""
    options, preflight, progress = context.options, context.preflight, context.progress
    return {
        "machine": fingerprint(versions_here(preflight.benchmark.backend), options.threads),
        "seconds": {name: round(s, 3) for name, s in progress.seconds.items()},
        "peak_memory_bytes": progress.memory.run,
        "stage_peak_memory_bytes": progress.peaks,
        "memory": preflight.memory.to_json(),
        "device": {
            "name": options.device,
            "stage_peak_memory_bytes": progress.device.peaks if progress.device else None,
        },
    }
