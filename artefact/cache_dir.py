"""The directory of results that outlive a run."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any


def cache_root() -> Path:
    """Returns `$LATHE_CACHE`, else ~/.cache/lathe."""
    return Path(os.environ.get("LATHE_CACHE") or Path.home() / ".cache" / "lathe")


def kept_file(folder: str, facts: Any) -> Path:
    """Returns the JSON file in a folder of `cache_root` for what was measured under these facts."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    return cache_root() / folder / f"{digest}.json"
