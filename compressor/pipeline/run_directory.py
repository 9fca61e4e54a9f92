"""The run directory: results of stages under keys of their inputs, written so that a kill loses nothing.

It lies next to the output, as `<out>.run`. A result has its final name only when it is complete; a stage that
finds its result is skipped. When the artefact is complete it is renamed into place and the run
directory is removed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from lathe.artefact.atomic_files import write_bytes
from lathe.artefact.errors import UserError
from lathe.compressor.compute.device import CPU
from lathe.compressor.model.safetensors_index import read_header

Tensors = dict[str, torch.Tensor]


def key(*facts: Any) -> str:
    """Returns a hash of facts that JSON can hold."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Saved:
    """Tensors of a stage, on disk; each is read when asked for."""

    path: Path

    def __getitem__(self, name: str) -> torch.Tensor:
        return read_header(self.path)[name].read()

    def all(self) -> Tensors:
        """Reads all of them."""
        return {name: entry.read() for name, entry in read_header(self.path).items()}


@dataclass(frozen=True)
class SavedRows:
    """Rows of a tensor of a stage [B, ...], read from disk to a device when asked for."""

    saved: Saved
    name: str
    device: torch.device = CPU

    def __getitem__(self, rows: torch.Tensor) -> torch.Tensor:
        return read_header(self.saved.path)[self.name].rows(rows).to(self.device)


class RunDirectory:
    """Results of one run's stages on disk."""

    def __init__(self, out: Path) -> None:
        """Creates or reopens `<out>.run`.

        Raises:
            UserError: it cannot be written, or another process is using it.
        """
        self.path = out.with_name(out.name + ".run")
        self.resumed = self.path.is_dir() and any(self.path.iterdir())
        if self.resumed and not (self.path / "lock").is_file():
            raise UserError(
                f"{self.path} is needed to work in, and holds something else", "Choose another --output."
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = (self.path / "lock").open("w")
        except OSError as error:
            raise UserError(
                f"cannot write {self.path}: {error.strerror}", "Choose another --output."
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise UserError(
                f"another compress is working on {out}", "Wait for it, or choose another --output."
            ) from None

    def json(self, name: str, make: Callable[[], Any]) -> Any:
        """Returns the JSON document called `name`; makes it now if it is not there."""
        path = self.path / f"{name}.json"
        if not path.exists():
            write_bytes(path, json.dumps(make()).encode())
        return json.loads(path.read_text())

    def has(self, name: str) -> bool:
        """Returns whether the tensors called `name` are there."""
        return self._file(name).exists()

    def tensors(self, name: str, make: Callable[[], Tensors]) -> Tensors:
        """Returns the tensors called `name`; makes them now if they are not there."""
        return self.saved(name, make).all()

    def saved(self, name: str, make: Callable[[], Tensors]) -> Saved:
        """Returns the tensors called `name` on disk; makes them now if they are not there."""
        path = self._file(name)
        if not path.exists():
            temporary = path.with_suffix(".tmp")
            try:
                save_file({k: v.to(CPU).contiguous() for k, v in make().items()}, temporary)
                with temporary.open("rb") as handle:
                    os.fsync(handle.fileno())
                temporary.replace(path)
            except (OSError, SafetensorError) as error:
                raise UserError(f"cannot write {path}: {error}", "Free some space and run again.") from None
        return Saved(path.absolute())

    def forget(self, beginning: str) -> None:
        """Removes the documents and tensors whose names begin so, documents about tensors first."""
        for suffix in ("json", "safetensors"):
            for file in self.path.glob(f"{beginning}-*.{suffix}"):
                file.unlink()

    def _file(self, name: str) -> Path:
        return self.path / f"{name}.safetensors"

    def fresh(self, name: str) -> Path:
        """Returns an empty directory inside the run directory."""
        path = self.path / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        return path

    def close(self) -> None:
        """Lets another process use the run directory."""
        self._lock.close()

    def remove(self) -> None:
        """Removes the run directory, renamed before so that a kill leaves no half of it to resume."""
        removed = self.path.with_name(f".{self.path.name}.{os.getpid()}.gone")
        self.path.rename(removed)
        shutil.rmtree(removed, ignore_errors=True)
