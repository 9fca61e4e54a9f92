"""Today's model files for an artefact that another version of Lathe wrote. Its weights stay as they are."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lathe.artefact.atomic_files import write_bytes, write_json
from lathe.artefact.errors import UserError
from lathe.artefact.manifest import FORMAT, MANIFEST, entry, listed_files, read_json
from lathe.artefact.shipped_files import SHIPPED_FILES, shipped_files, stale_files

_GIVE = "Give the output directory of `lathe compress`."


@dataclass(frozen=True)
class Refresh:
    """The changes of a refresh.

    Attributes:
        replaced: Model files, by name.
        edited: Those of them that somebody changed after they were exported.
        manifest: Whether there is a manifest to renew.
    """

    replaced: list[str]
    edited: list[str]
    manifest: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def plan_refresh(directory: Path) -> Refresh:
    """Returns the changes of a refresh, without making them.

    Raises:
        UserError: the directory is no artefact of ours, or its manifest cannot be read.
    """
    if not directory.is_dir():
        raise UserError(f"there is no directory {directory}", _GIVE)
    files = shipped_files(directory)
    if not files:
        known = ", ".join(SHIPPED_FILES)
        raise UserError(
            f"{directory} holds no checkpoint of ours (config.json's model_type is none of {known})",
            _GIVE,
        )
    listed = _listed(directory)
    stale = stale_files(directory)
    edited = [name for name in stale if _differs(directory / name, listed.get(name))]
    outdated = [n for n, content in files.items() if listed and not _same(content, listed.get(n))]
    return Refresh(stale, edited, bool(outdated))


def refresh(directory: Path) -> Refresh:
    """Replaces the artefact's model files by this Lathe's and renews their manifest entries.

    The manifest's entries of all other files stay. An interrupted refresh is finished by the next.

    Raises:
        UserError: as `plan_refresh`, or the file system refuses.
    """
    plan, files = plan_refresh(directory), shipped_files(directory)
    for name in plan.replaced:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(directory / name, files[name])
    if plan.manifest:
        listed = _listed(directory) | {name: entry(directory / name) for name in files}
        facts = read_json(directory / MANIFEST, optional=True)
        document = facts | {"format": FORMAT, "files": dict(sorted(listed.items()))}
        write_json(directory / MANIFEST, document)
    return plan


def _listed(directory: Path) -> dict[str, Any]:
    """Returns the manifest's entries; none where a checkpoint was copied without it."""
    return listed_files(directory) if (directory / MANIFEST).exists() else {}


def _differs(file: Path, listed: Any) -> bool:
    """Returns whether a file is there and is not what the manifest lists."""
    return listed is not None and file.is_file() and not _same(file.read_bytes(), listed)


def _same(content: bytes, listed: Any) -> bool:
    return isinstance(listed, dict) and listed.get("sha256") == hashlib.sha256(content).hexdigest()
