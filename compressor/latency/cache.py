"""Precise measurements of this machine, kept in the cache (`$LATHE_CACHE`, else ~/.cache/lathe)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from lathe.artefact.atomic_files import write_json
from lathe.artefact.cache_dir import cache_root
from lathe.artefact.errors import UserError
from lathe.artefact.fingerprint import fingerprint
from lathe.artefact.plan import Plan
from lathe.compressor.latency.designs import formats_of
from lathe.compressor.latency.effort import PROOF, TABLE
from lathe.compressor.latency.measure import LatencyBenchmark
from lathe.compressor.latency.table import LatencyTable
from lathe.compressor.search.space import Choices

_KEPT = 2.0
"""What is kept has a standard error of at most this multiple of the one that was wanted."""


def cached_table(benchmark: LatencyBenchmark, space: Choices, refresh: bool) -> LatencyTable:
    """Returns the table of this machine, model shape, workload and formats of weights.

    It is measured once, then kept in the cache (`$LATHE_CACHE`, else ~/.cache/lathe), so that runs with the
    same inputs search the same table.
    """
    path = _cache_path(benchmark, formats_of(space))
    if path.exists() and not refresh:
        try:
            table = LatencyTable.from_json(json.loads(path.read_text()))
            benchmark.progress.say(f"  latency table: from {path} (--remeasure to measure again)")
            return table
        except (ValueError, KeyError, TypeError, UserError):
            benchmark.progress.say(f"  latency table: {path} is of another version or damaged; measuring")
    table = benchmark.table(space)
    error = table.precision["largest_standard_error"] if table.precision else None
    if error is not None and error <= _KEPT * TABLE.precision:
        _keep(path, table.to_json(), benchmark)
    else:
        benchmark.progress.say("  latency table: not kept for later runs, as it is not precise enough")
    return table


def _keep(path: Path, document: Any, benchmark: LatencyBenchmark) -> None:
    """Keeps a table for later runs, if that is possible: it is good for this run in any case."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, document)
    except (OSError, UserError) as error:
        benchmark.progress.say(f"  not kept for later runs: {error} ($LATHE_CACHE names another place)")


def _cache_path(benchmark: LatencyBenchmark, formats: tuple[int, ...] = (0,)) -> Path:
    """Returns the file for a machine, model shape and workload; `formats` is `formats_of` a table's space."""
    root = cache_root()
    facts = [
        benchmark.source.config,
        repr(benchmark.workload),
        fingerprint(benchmark.backend.versions(), benchmark.threads),
    ]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]
    bits = "".join(f"-{bits}" for bits in formats[1:])
    return root / "latency" / f"{benchmark.backend.name}-{digest}{bits}.json"


def cached_comparison(benchmark: LatencyBenchmark, plan: Plan, refresh: bool) -> dict[str, float]:
    """Compares a plan with dense on this machine: {"dense_ms", "subnet_ms", "ratio", "standard_error"}.

    The result is kept in the cache if it is precise, so that the same plan is not timed twice.
    """
    digest = hashlib.sha256(json.dumps(plan.to_json()).encode()).hexdigest()[:16]
    path = _cache_path(benchmark).with_suffix("") / f"{digest}.json"
    if path.exists() and not refresh:
        try:
            return dict(json.loads(path.read_text()))
        except ValueError:
            path.unlink()
    comparison = benchmark.compare(plan)
    paired = comparison.paired
    result = {
        "dense_ms": comparison.dense.median,
        "subnet_ms": comparison.subnet.median,
        "ratio": paired.value,
        "standard_error": paired.standard_error,
    }
    if paired.standard_error <= _KEPT * PROOF.precision:
        _keep(path, result, benchmark)
    return result
