"""The list of an artefact's files, size and hash: written by exporters, checked before files are read."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from lathe.artefact.atomic_files import write_json
from lathe.artefact.errors import UserError
from lathe.artefact.gguf_suffix import MODEL_FILE, SUFFIX
from lathe.artefact.onnx.graph_format import FOLDER, GRAPH, GRAPH_DATA, SHARED_DATA

FORMAT = "lathe-artefact/1"
MANIFEST = "manifest.json"
CHECKPOINT_SUFFIXES = (".safetensors", ".bin", ".pt", ".json", ".model", ".jinja", ".py")
"""Of files that loading a checkpoint may read."""
UNREAD = ("report.html",)
"""For people: an artefact is served without it, too."""
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", SUFFIX)
_HASHES: dict[tuple[int, ...], str] = {}
"""Hashes of files with several names, by device, number, size and times of their last change."""


def write_manifest(directory: Path, **facts: Any) -> None:
    """Writes `manifest.json` over every file of `directory` and its folders, hidden ones excepted.

    Args:
        directory: The artefact's.
        facts: What else it says, such as how the weights were rounded.

    Raises:
        UserError: a file cannot be read, or the manifest not be written.
    """
    files = {}
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory)
        if path.is_file() and name != Path(MANIFEST) and not any(part.startswith(".") for part in name.parts):
            files[name.as_posix()] = entry(path)
    write_json(directory / MANIFEST, {"format": FORMAT, "files": files} | facts)


def entry(path: Path) -> dict[str, Any]:
    """Returns the manifest's entry of a file.

    Raises:
        UserError: it cannot be read.
    """
    return {"sha256": sha256(path), "bytes": path.stat().st_size}


def sha256(path: Path) -> str:
    """Returns the hexadecimal hash of a file. One with several names, as families have, is read once.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with path.open("rb") as handle:
            found = os.fstat(handle.fileno())
            if found.st_nlink == 1:
                return hashlib.file_digest(handle, "sha256").hexdigest()
            key = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
            if key not in _HASHES:
                _HASHES[key] = hashlib.file_digest(handle, "sha256").hexdigest()
            return _HASHES[key]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None


def listed_files(path: Path) -> dict[str, Any]:
    """Returns the entry of every file that an artefact's manifest lists, by name.

    Raises:
        UserError: the manifest cannot be read, or has another format.
    """
    manifest = read_json(path / MANIFEST)
    written, files = manifest.get("format"), manifest.get("files")
    if written != FORMAT:
        raise UserError(
            f"{path / MANIFEST} has the format {written!r}, not {FORMAT!r}",
            "Use the Lathe that wrote it, or export the model again.",
        )
    if not isinstance(files, dict):
        raise UserError(f"{path / MANIFEST} lists no files", "Export the model again.")
    return files


def verify_graph(path: Path, files: dict[str, Any]) -> None:
    """Checks sizes and hashes of the graph, its weights and the files beside it.

    The checkpoint's weights, which are not read, are checked by size alone.

    Raises:
        UserError: a file differs; names the first.
    """
    if GRAPH not in files:
        raise UserError(
            f"{path} holds no ONNX export",
            "Compress with --export checkpoint,onnx; one exported for vLLM is served with --engine vllm.",
        )
    for name in (GRAPH, GRAPH_DATA, SHARED_DATA):
        if name in files:
            _verify_file(path, name, files[name])
    _verify_listed((path / FOLDER).iterdir(), f"{FOLDER}/", files)
    _verify_folder(path, files, by_size=WEIGHT_SUFFIXES)


def verify_gguf(path: Path, files: dict[str, Any]) -> None:
    """Checks sizes and hashes of the GGUF file and the files beside it.

    The checkpoint's weights, which are not read, are checked by size alone.

    Raises:
        UserError: a file differs; names the first.
    """
    if MODEL_FILE not in files:
        raise UserError(f"{path / MODEL_FILE} is not listed in manifest.json", "Export the model again.")
    _verify_file(path.resolve(), MODEL_FILE, files[MODEL_FILE])
    _verify_folder(path, files, by_size=WEIGHT_SUFFIXES)


def verify_checkpoint(path: Path, files: dict[str, Any]) -> None:
    """Checks sizes and hashes of the files that lie with the weights.

    Raises:
        UserError: a file differs; names the first.
    """
    _verify_folder(path, files, by_size=(SUFFIX,))


def verify_all(path: Path, files: dict[str, Any]) -> None:
    """Compares sizes and hashes of all listed files.

    Raises:
        UserError: names the first file that is missing or differs.
    """
    for name in files:
        _verify_file(path.resolve(), name, files[name])


def _verify_folder(path: Path, files: dict[str, Any], by_size: Collection[str]) -> None:
    root = path.resolve()
    for name in files:
        if "/" not in name and name not in UNREAD:
            _verify_file(root, name, files[name], hashed=Path(name).suffix not in by_size)
    read = (file for file in root.iterdir() if file.suffix in CHECKPOINT_SUFFIXES and file.name != MANIFEST)
    _verify_listed(read, "", files)


def _verify_listed(found: Iterable[Path], prefix: str, files: dict[str, Any]) -> None:
    for file in found:
        if prefix + file.name not in files:
            raise UserError(f"{file} is not listed in manifest.json", "Remove it or export the model again.")


def _verify_file(root: Path, name: str, entry: Any, *, hashed: bool = True) -> None:
    file = root / name
    if not file.is_file() or not _own(root, file):
        raise UserError(f"{file} is missing or is not a plain file", "Export the model again.")
    if not isinstance(entry, dict) or file.stat().st_size != entry.get("bytes"):
        raise UserError(f"{file} has not the size that manifest.json states", "Copy or export it again.")
    if not hashed:
        return
    if sha256(file) != entry.get("sha256"):
        raise UserError(f"{file} has not the hash that manifest.json states", "Copy or export it again.")


def _own(root: Path, file: Path) -> bool:
    """Returns whether a file is the artefact's own.

    It is no link, or one of the links by which a snapshot in the hub's cache (`snapshots/REVISION`) has its
    content in `blobs` beside it.
    """
    if not file.is_symlink() and not file.parent.is_symlink():
        return True
    return file.resolve().parent == root.resolve().parent.parent / "blobs"


def read_json(file: Path, *, optional: bool = False) -> dict[str, Any]:
    """Returns a file's JSON object; an empty one if the file is `optional` and not there.

    Raises:
        UserError: it cannot be read, or holds no object.
    """
    if optional and not file.exists():
        return {}
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {file}: {error}") from None
    if not isinstance(document, dict):
        raise UserError(f"{file} is not a JSON object")
    return document
