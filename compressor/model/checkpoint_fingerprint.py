"""Two fingerprints of a checkpoint: one of the files' sizes and times, one of their content.

The quick one is for caches, where a needless miss costs little. The one of the content is for results that
are kept for as long as the weights are the same, also where they were copied or downloaded again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lathe.compressor.model.checkpoint import Checkpoint
from lathe.compressor.model.file_digest import file_digest


def quick_fingerprint(config: Mapping[str, Any], files: Iterable[Path], version: str = "") -> str:
    """Returns a fingerprint of a config and of the names, sizes and modification times of files.

    Args:
        config: The checkpoint's config.
        files: The files that are read of it.
        version: The version of what is made from them.
    """
    digest = hashlib.sha256(f"{version} {json.dumps(config, sort_keys=True)}".encode())
    for file in sorted(files):
        status = file.stat()
        digest.update(f"{file.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def weight_files(source: Checkpoint) -> list[Path]:
    """Returns the files that a checkpoint's tensors are read from."""
    return sorted({entry.file for entry in source.index.values()})


def weight_digests(source: Checkpoint) -> dict[str, str]:
    """Returns the digest of the content of each weight file, by its name."""
    return {file.name: file_digest(file) for file in weight_files(source)}
