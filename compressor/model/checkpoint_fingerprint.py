"""Two fingerprints of a checkpoint: one of the files' sizes and times, one of their content.

The quick one is for caches, where a needless miss costs little. The one of the content is for results that
are kept for as long as the weights are the same, also where they were copied or downloaded again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from lathe.compressor.model.checkpoint import Checkpoint

_WHOLE = 2**30
"""Size in bytes up to which a file is hashed completely."""
_BLOCK, _BLOCKS = 2**16, 4096
"""Size in bytes and number of the evenly spaced blocks that are hashed of a longer file."""


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


def file_digest(file: Path) -> str:
    """Returns a digest of a file's content; of a long file, of its size and of blocks from all over it.

    A file that has not changed since the last call is not read again.
    """
    status = file.stat()
    return _content_digest(file, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@lru_cache(maxsize=1024)
def _content_digest(file: Path, size: int, *_changed: int) -> str:
    digest, starts = hashlib.blake2b(digest_size=16), range(0, size, _BLOCK)
    step = 1 if size <= _WHOLE else -(-len(starts) // _BLOCKS)
    digest.update(str(size).encode())
    with file.open("rb") as handle:
        for start in starts[::step]:
            handle.seek(start)
            digest.update(handle.read(_BLOCK))
    return digest.hexdigest()
