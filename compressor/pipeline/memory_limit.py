"""The limit of a run's resident memory."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from lathe.artefact.errors import UserError
from lathe.compressor.compute.peak_memory import return_freed_memory_at_once
from lathe.compressor.pipeline.memory_estimate import memory_text


@contextmanager
def memory_limit(limit: int | None) -> Iterator[None]:
    """Makes the system refuse memory beyond a limit in bytes, for the duration of a block.

    Raises:
        UserError: it had to refuse.
    """
    if limit is None:
        yield
        return
    return_freed_memory_at_once()
    process, (soft, hard) = psutil.Process(), resource.getrlimit(resource.RLIMIT_DATA)
    spare = limit - process.memory_info().rss
    resource.setrlimit(resource.RLIMIT_DATA, (max(0, process.memory_info().data + spare), hard))
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or "alloc" in str(error):
            raise UserError(
                f"the memory limit of {memory_text(limit)} was hit",
                "Run the same command with a higher --memory-limit: what was finished is kept.",
            ) from error
        raise
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
