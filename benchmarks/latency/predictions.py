"""How far off is a sum over the table? Random plans, whole models of them, timed beside dense."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from benchmarks.latency.targets import Subject
from lathe.artefact.plan import LayerShape, Plan
from lathe.compressor.compute.progress import Progress
from lathe.compressor.latency.built_models import TimedModel
from lathe.compressor.latency.cache import cached_table
from lathe.compressor.latency.effort import Effort
from lathe.compressor.search.space import Space, make_space

_EFFORT = Effort(loads=4, most=8, precision=0.01, seconds=600.0)


def random_plans(space: Space, count: int, seed: int = 0) -> list[Plan]:
    """Plans whose every block has any level, dropped ones too; none without attention."""
    rng = random.Random(seed)
    found: list[Plan] = []
    while len(found) < count:
        layers = [
            LayerShape.of(rng.choice(space.attention), rng.choice(space.ffn)) for _ in range(space.layers)
        ]
        if any(layer.kv_heads for layer in layers):
            found.append(Plan(tuple(layers)))
    return found


def rows(subject: Subject, count: int, progress: Progress) -> Iterator[dict[str, Any]]:
    """A row per plan: what the table says, and what the whole model takes at the table's dense speed."""
    benchmark = subject.benchmark(progress)
    space, dense = make_space(benchmark.source.shape), benchmark.source.shape.dense_plan
    table = cached_table(benchmark, space, refresh=False)
    plans = random_plans(space, count)
    models = [TimedModel(plan) for plan in (dense, *plans)]
    timed = benchmark.time(models, _EFFORT, "measure: random plans")
    for plan, comparison in zip(plans, timed, strict=True):
        measured = table.dense_ms * comparison.ratio
        predicted = table.predict(plan)
        yield {
            "model": subject.name,
            "backend": subject.backend,
            "metric": subject.workload.metric,
            "batch_size": subject.workload.batch_size,
            "context": subject.workload.context,
            "predicted_ms": predicted,
            "measured_ms": measured,
            "error": predicted / measured - 1,
            "tile": table.tile,
        }
