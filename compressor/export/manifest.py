"""The list of an artefact's files with their sizes and hashes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from compressor.errors import UserError
from compressor.export.files import write_json

FORMAT = "lathe-artefact/1"
MANIFEST = "manifest.json"


def write_manifest(directory: Path) -> None:
    """Write `manifest.json` over every file of `directory` and its folders, hidden ones excepted.

    Raises:
        UserError: a file cannot be read, or the manifest not be written.
    """
    files = {}
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory)
        if path.is_file() and name != Path(MANIFEST) and not any(part.startswith(".") for part in name.parts):
            files[name.as_posix()] = entry(path)
    document = {"format": FORMAT, "files": files}
    write_json(directory / MANIFEST, document)


def entry(path: Path) -> dict[str, Any]:
    """What the manifest says of a file.

    Raises:
        UserError: it cannot be read.
    """
    return {"sha256": _sha256(path), "bytes": path.stat().st_size}


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
