"""An artefact's directory, opened for reading."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lathe.artefact.errors import UserError
from lathe.artefact.manifest import listed_files, read_json, verify_all
from lathe.artefact.onnx.graph_format import GRAPH
from lathe.artefact.plan import Plan


@dataclass(frozen=True)
class Artefact:
    """A compressed model on disk.

    Attributes:
        path: its directory. It is also the checkpoint: transformers and vLLM load it.
        files: the sizes in bytes of all files, by their names relative to `path`.
    """

    path: Path
    files: Mapping[str, int]

    @cached_property
    def plan(self) -> Plan:
        """The widths of the model, layer by layer.

        Raises:
            UserError: plan.json cannot be read.
        """
        return Plan.load(self.path / "plan.json")

    @cached_property
    def report(self) -> dict[str, Any]:
        """The measurements and predictions of the run: the document of report.json, whose keys end in units.

        Raises:
            UserError: report.json cannot be read; an artefact of `lathe export` has none.
        """
        return read_json(self.path / "report.json")

    @property
    def graph(self) -> Path | None:
        """The ONNX graph; None where none was exported."""
        return self.path / GRAPH if GRAPH in self.files else None

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(self.files.values())

    def verify(self) -> None:
        """Reads every file and compares its size and hash with the manifest.

        Raises:
            UserError: names the first file that is missing or differs.
        """
        verify_all(self.path, listed_files(self.path))


def open_artefact(path: str | Path) -> Artefact:
    """Opens the directory that `compress` or `lathe export` wrote; reads only its manifest.

    Raises:
        UserError: it is not the directory of an artefact.
    """
    directory = Path(path)
    if not directory.is_dir():
        raise UserError(f"{directory} is not a directory", "Give the output directory of `lathe compress`.")
    listed = listed_files(directory)
    try:
        sizes = {name: int(stated["bytes"]) for name, stated in listed.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"the manifest of {directory} is malformed: {error!r}") from None
    return Artefact(directory, MappingProxyType(sizes))
