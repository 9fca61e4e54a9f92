"""The machine that a figure holds for."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from lathe.artefact.huge_pages import huge_page_bytes


def fingerprint(versions: dict[str, str], threads: int | None) -> dict[str, object]:
    """Processor, cores, operating system, engine versions, thread count, and whether there are huge pages."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "threads": threads or "all cores",
        "huge_pages": bool(huge_page_bytes()),
        **versions,
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
