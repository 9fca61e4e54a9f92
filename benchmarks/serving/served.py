"""What a subnet gains as served (`lathe loadtest OUT --against MODEL`), against what its bytes promise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lathe.serving.loadtest.compare import compare
from lathe.serving.loadtest.load import Load
from lathe.serving.loadtest.prompts import PromptChoice
from lathe.serving.loadtest.testbed import Serving, Setup

_REQUESTS = 4
"""A round, for each that is in flight."""
_SHOWN = ("tpot_ms.p50", "itl_ms.p50", "ttft_ms.p50", "output_tokens_per_second")


def served(
    dense: Mapping[str, Any],
    subnet: Mapping[str, Any],
    flights: Sequence[int],
    *,
    prompt: int,
    output: int,
    rounds: int,
    threads: int,
) -> list[dict[str, Any]]:
    """A row for each number of requests in flight.

    speedup: of TPOT (its median of requests), dense over subnet, median of paired rounds; promised: the same
    of the bytes that a decode step reads; kept: one over the other, of which 0.9 is the goal. (Not of ITL:
    where a step takes a millisecond or two, tokens arrive together.) dense, subnet: facts of the two systems,
    from a column.
    """
    rows = []
    for flight in flights:
        load = Load(concurrency=flight, requests=_REQUESTS * flight, output_tokens=output, timeout_s=600.0)
        options = (
            "--threads",
            str(threads),
            "--max-batch",
            str(max(flights)),
            "--max-length",
            str(prompt + output + 16),
        )
        found = compare(
            Path(subnet["path"]),
            Path(dense["path"]),
            load,
            rounds=rounds,
            setup=Setup(prompts=PromptChoice(prompt), serving=Serving(extra=options)),
        )
        cached = flight * (prompt + output / 2)
        read = [facts["streamed_bytes"] + facts["kv_bytes"] * cached for facts in (dense, subnet)]
        promised, speedup = read[0] / read[1], 1 / found["ratios"]["tpot_ms.p50"]["median"]
        rows.append(
            {
                "in_flight": flight,
                "promised": promised,
                "speedup": speedup,
                "kept": speedup / promised,
                "failed": sum(system["failed"] for system in found["systems"].values()),
                "bytes_a_step": {"dense": round(read[0]), "subnet": round(read[1])},
                "ratios": {label: found["ratios"][label] for label in _SHOWN},
            }
        )
    return rows
