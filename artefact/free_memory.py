"""How much memory is free, and whether a KV cache fits."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import psutil

from lathe.artefact.errors import UserError


def check_cache_fits(needed: int) -> None:
    """Checks that there is memory for a KV cache.

    The system grants more than there is, and kills who fills it.

    Raises:
        UserError: There is not.
    """
    if needed > (free := free_bytes()):
        raise UserError(
            f"a KV cache of {needed / 2**30:.2f} GiB does not fit into the {free / 2**30:.2f} GiB of memory "
            "that are free",
            "Lower --max-batch or --max-length.",
        )


def free_bytes(group: Path = Path("/sys/fs/cgroup")) -> int:
    """Returns the free memory of this machine, or of this container where it has a limit."""
    free = int(psutil.virtual_memory().available)
    with suppress(OSError, ValueError, KeyError):  # no control group, or none with a limit
        limit = int((group / "memory.max").read_text())
        used = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        free = min(free, limit - int(used["anon"]))
    return free
