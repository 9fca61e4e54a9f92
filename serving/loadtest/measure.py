"""Computes numbers from samples, by vLLM's definitions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from lathe.serving.loadtest.sample import Sample

DEFINITIONS = {
    "ttft_ms": "time to first token: request sent to first chunk that carries tokens, of reasoning too",
    "ttfo_ms": "time to first output token: request sent to first chunk of the answer itself, where "
    "reasoning comes before it",
    "tpot_ms": "time per output token after the first: (E2E - TTFT) / (output tokens - 1), per request; "
    "tokens that came together with the first are left out",
    "untimed": "answers with more tokens than their chunks can time: no TPOT, and no limit of it is kept",
    "itl_ms": "inter-token latency: gaps between successive chunks that carry tokens, all requests pooled",
    "e2e_ms": "end to end: request sent to last chunk that carries tokens",
    "output_tokens_per_second": "output tokens of successful requests / seconds, first sent to last ended",
    "requests_per_second": "successful requests / the same seconds",
    "total_tokens_per_second": "prompt and output tokens of successful requests / the same seconds",
    "errors": "failed requests by kind; never part of a percentile or a throughput",
    "peak_rss_bytes": "highest sum of the resident memory of the server's processes seen under load",
    "model_weight_bytes": "the server's lathe_model_weight_bytes",
    "gpu_memory_used_bytes": "highest lathe_gpu_memory_used_bytes seen under load",
    "ratios": "subnet / dense of the paired rounds: median, lowest, highest",
}
"""The definition of every figure in a document."""

PERCENTILES = (50, 90, 95, 99)
LATENCIES = ("ttft_ms", "ttfo_ms", "tpot_ms", "itl_ms", "e2e_ms")
THROUGHPUTS = ("output_tokens_per_second", "requests_per_second", "total_tokens_per_second")


@dataclass(frozen=True)
class Round:
    """One measured round.

    Attributes:
        samples: its requests.
        client_cpu_s: seconds of processor time that this client used; None: unknown.
        stopped_early: why it ended before its time; None: it did not.
        own_summary: the figures of another load tester that sent it, by its own definitions.
    """

    samples: list[Sample]
    client_cpu_s: float | None
    stopped_early: str | None = None
    own_summary: Mapping[str, Any] = field(default_factory=dict)

    @property
    def duration_s(self) -> float:
        """Seconds from the first request sent to the last one finished."""
        if not self.samples:
            return 0.0
        return max(s.sent_s + s.end_s for s in self.samples) - min(s.sent_s for s in self.samples)


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Returns a percentile of ascending values, interpolated linearly between ranks (numpy's default)."""
    rank = (len(ordered) - 1) * percent / 100
    low = math.floor(rank)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (rank - low)


def distribution(values: Iterable[float]) -> dict[str, float] | None:
    """Returns count, mean, p50, p90, p95, p99 and extremes; None without a value."""
    ordered = sorted(values)
    if not ordered:
        return None
    found = {f"p{p}": round(percentile(ordered, p), 4) for p in PERCENTILES}
    return {
        "n": len(ordered),
        "mean": round(math.fsum(ordered) / len(ordered), 4),
        **found,
        "min": round(ordered[0], 4),
        "max": round(ordered[-1], 4),
    }


def tpot_s(sample: Sample) -> float | None:
    """Returns the seconds per output token after the first; None for one token, or an untimed answer."""
    if sample.output_tokens < 2 or sample.untimed:
        return None
    return (sample.chunk_s[-1] - sample.chunk_s[0]) / (sample.output_tokens - sample.first_arrival_tokens)


def summary(rounds: Sequence[Round]) -> dict[str, Any]:
    """Returns counts, throughput (per second) and latency (milliseconds) of all rounds together."""
    samples = [sample for one in rounds for sample in one.samples]
    good = [sample for sample in samples if sample.ok]
    seconds = math.fsum(one.duration_s for one in rounds)
    output = sum(sample.output_tokens for sample in good)
    prompt = sum(sample.prompt_tokens or 0 for sample in good)
    numbers: dict[str, Any] = {
        "requests": len(samples),
        "succeeded": len(good),
        "failed": len(samples) - len(good),
        "errors": dict(sorted(Counter(s.error_kind for s in samples if s.error_kind).items())),
        "duration_s": round(seconds, 4),
        "prompt_tokens": prompt,
        "output_tokens": output,
        "asked_tokens": sum(sample.asked_tokens for sample in good),
        "tokens_counted_by": "server" if all(s.counted for s in good) else "chunks",
        "untimed": sum(sample.untimed for sample in good),
        "output_tokens_per_second": _per_second(output, seconds),
        "requests_per_second": _per_second(len(good), seconds),
        "total_tokens_per_second": _per_second(output + prompt, seconds),
        "client_cpu_share": _cpu_share(rounds, seconds),
    }
    return numbers | {name: distribution(values) for name, values in _latencies(good).items()}


def _latencies(good: Sequence[Sample]) -> dict[str, list[float]]:
    return {
        "ttft_ms": [1e3 * s.chunk_s[0] for s in good],
        "ttfo_ms": [1e3 * s.answer_s for s in good if s.answer_s is not None],
        "tpot_ms": [1e3 * value for s in good if (value := tpot_s(s)) is not None],
        "itl_ms": [1e3 * (b - a) for s in good if not s.ends_only for a, b in pairwise(s.chunk_s)],
        "e2e_ms": [1e3 * s.chunk_s[-1] for s in good],
    }


def _cpu_share(rounds: Sequence[Round], seconds: float) -> float | None:
    used = [one.client_cpu_s for one in rounds if one.client_cpu_s is not None]
    return _per_second(math.fsum(used), seconds) if len(used) == len(rounds) else None


def _per_second(amount: float, seconds: float) -> float:
    return round(amount / seconds, 4) if seconds else 0.0
