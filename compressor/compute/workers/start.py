"""Workers for a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from lathe.compressor.compute.progress import Progress
from lathe.compressor.compute.workers.base import LocalWorkers, Workers
from lathe.compressor.compute.workers.ray_config import RayConfig


@contextmanager
def workers_at(place: RayConfig | None, progress: Progress) -> Iterator[Workers]:
    """Yields the workers of a configuration and closes them at the end; None: this process."""
    if place is None:
        yield LocalWorkers()
        return
    with progress.stage("start: workers", 1):
        from lathe.compressor.compute.workers.ray import RayWorkers

        found = RayWorkers(place)
    with closing(found) as workers:
        progress.say(f"  {found.count} workers of {found.threads} threads")
        yield workers
