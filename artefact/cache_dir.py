"""Where results that outlive a run are kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """`$LATHE_CACHE`, else ~/.cache/lathe."""
    return Path(os.environ.get("LATHE_CACHE") or Path.home() / ".cache" / "lathe")
