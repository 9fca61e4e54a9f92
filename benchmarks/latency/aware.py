"""What is knowing the milliseconds worth?

At one latency, the plan that a latency table gives against the one that counts parameters: both are timed,
finished and scored on the same text.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.quality.product import Choice, Product
from benchmarks.quality.score import Judge, windows_of
from lathe.compressor.compute.progress import Progress
from lathe.compressor.latency.cache import cached_table
from lathe.compressor.latency.measure import LatencyBenchmark
from lathe.compressor.latency.workload import Workload
from lathe.compressor.pipeline.latency_loop import Iteration
from lathe.compressor.pipeline.options import CompressOptions
from lathe.compressor.pipeline.search import Searcher
from lathe.compressor.search.method import SearchResult
from lathe.compressor.search.space import parameter_constraint

_HALVINGS = 12


def rows(
    model: Path,
    text: str,
    heldout: str,
    workload: Workload,
    speedup: float,
    work: Path,
    tokens: int,
    windows: int,
    progress: Progress,
) -> Iterator[dict[str, Any]]:
    """Two rows: by latency and by parameters, each with its measured milliseconds and its loss."""
    options = CompressOptions(
        model=str(model),
        out=work / f"{model.name}-aware",
        target_speedup=speedup,
        bits="16",
        latency_metric=workload.metric,
        batch_size=workload.batch_size,
        context=workload.context,
        output_tokens=workload.output_tokens,
        calibration=text,
        calibration_tokens=tokens,
    )
    product = Product.open(options, progress)
    setting, preflight = product.setting(), product.context.preflight
    benchmark = preflight.benchmark
    table = cached_table(benchmark, preflight.space, refresh=False)
    search = Searcher(product.context, product.calibration)
    limit = table.dense_ms / speedup
    by_latency = search([table.constraint(preflight.space, limit)])
    by_parameters = _as_fast(search, table.predict, table.predict(by_latency.plan), product)
    judge = Judge(setting, windows_of(setting, heldout, windows))
    for name, found in (("latency", by_latency), ("parameters", by_parameters)):
        timing = LatencyBenchmark(benchmark.source, benchmark.backend, workload, None, progress).compare(
            found.plan
        )
        made = Iteration(found.plan, found.selections, found.fitness, found.evaluations)
        finished = product.finish(Choice(product.context, product.calibration, made))
        result = judge.score(setting.subnet(finished).hidden)
        yield {
            "model": model.name,
            "plan_by": name,
            "metric": workload.metric,
            "batch_size": workload.batch_size,
            "context": workload.context,
            "speedup_asked": speedup,
            "speedup_measured": 1 / timing.ratio,
            "measured_ms": timing.subnet.median,
            "dense_ms": timing.dense.median,
            "kept": benchmark.source.shape.kept(found.plan),
            "increase": result.loss - judge.dense_loss,
            "kl": result.kl,
            "text": Path(heldout).name,
            "plan": found.plan.to_json()["layers"],
        }
    product.context.run_dir.close()


def _as_fast(search: Searcher, predict: Any, milliseconds: float, product: Product) -> SearchResult:
    """The largest share of parameters whose plan takes no longer, by halving."""
    low, high = 0.05, 1.0
    preflight, best = product.context.preflight, None
    for _ in range(_HALVINGS):
        keep = (low + high) / 2
        found = search([parameter_constraint(preflight.space, preflight.source.shape, keep)])
        if predict(found.plan) <= milliseconds:
            low, best = keep, found
        else:
            high = keep
    assert best is not None, "the smallest share is slower than the target"
    return best
