"""Space on the disk that something is to be written to."""

from __future__ import annotations

import shutil
from pathlib import Path


def free_space(path: Path) -> tuple[Path, int]:
    """Returns the nearest folder of a path that is there, and the free bytes on its disk."""
    folder = path.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder, shutil.disk_usage(folder).free
