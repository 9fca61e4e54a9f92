"""How far can one measurement be trusted here? Two effects that the latency bench is built around.

    .venv/bin/python benchmarks/latency/noise.py MODEL

1. *settling*: milliseconds per step in each tenth of a second after another model ran;
2. *loads*: the same two models (dense, and half of everything) loaded anew several times.

Prints one JSON document.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable

from lathe.artefact.fingerprint import fingerprint
from lathe.artefact.plan import LayerShape, Plan
from lathe.compressor.compute.progress import Progress
from lathe.compressor.latency.backend import backends
from lathe.compressor.latency.bench import take_turns
from lathe.compressor.latency.built_models import TimedModel
from lathe.compressor.latency.comparison import Comparison
from lathe.compressor.latency.measure import LatencyBenchmark
from lathe.compressor.latency.workload import Workload
from lathe.compressor.model.checkpoint import open_checkpoint

LOADS, SWITCHES, TENTHS = 8, 6, 8


def settling(steps: dict[str, Callable[[], None]]) -> dict[str, list[float]]:
    """Median milliseconds per tenth of a second after a switch, over several switches."""
    seen: dict[str, list[list[float]]] = {name: [[] for _ in range(TENTHS)] for name in steps}
    for _ in range(SWITCHES):
        for name, step in steps.items():
            start = time.perf_counter()
            while (at := time.perf_counter()) - start < TENTHS / 10:
                step()
                seen[name][min(int((at - start) * 10), TENTHS - 1)].append((time.perf_counter() - at) * 1e3)
    return {name: [statistics.median(part) for part in parts] for name, parts in seen.items()}


def main() -> None:
    source = open_checkpoint(sys.argv[1])
    dense = source.shape.layer
    kv = max(1, dense.kv_heads // 2)
    half = Plan((LayerShape(kv * dense.heads_per_group, kv, dense.ffn // 2),) * source.shape.num_layers)
    benchmark = LatencyBenchmark(source, backends.get("onnx"), Workload(), None, Progress(quiet=True))
    rows = []
    with benchmark.models([TimedModel(source.shape.dense_plan), TimedModel(half)]) as directories:
        for _ in range(LOADS):
            steps = {
                name: benchmark.backend.prepare(directory, benchmark.workload, None)
                for name, directory in zip(("dense", "half"), directories, strict=True)
            }
            timings = take_turns(steps)
            rows.append(
                {
                    "dense_ms": timings["dense"].median,
                    "half_ms": timings["half"].median,
                    "ratio": Comparison(timings["dense"], timings["half"]).ratio,
                }
            )
        after_switch = settling(steps)
    result = {
        "model": source.name,
        "machine": fingerprint(benchmark.backend.versions(), None),
        "loads": rows,
        "after_switch_ms_per_tenth_of_a_second": after_switch,
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
