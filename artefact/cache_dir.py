"""The directory of results that outlive a run."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """Returns `$LATHE_CACHE`, else ~/.cache/lathe."""
    return Path(os.environ.get("LATHE_CACHE") or Path.home() / ".cache" / "lathe")
