"""Workers for a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from compressor.progress import Progress
from compressor.workers.base import Here, Workers
from compressor.workers.place import Place


@contextmanager
def workers_at(place: Place | None, progress: Progress) -> Iterator[Workers]:
    """Those of a place while this lasts; None: here."""
    if place is None:
        yield Here()
        return
    with progress.stage("start: workers", 1):
        from compressor.workers.ray import RayWorkers

        found = RayWorkers(place)
    with closing(found) as workers:
        progress.say(f"  {found.count} workers of {found.threads} threads")
        yield workers
