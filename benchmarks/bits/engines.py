"""Artefacts of two engines in one comparison: a graph runs in ONNX Runtime, a GGUF file in llama.cpp."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lathe.artefact.gguf_suffix import MODEL_FILE
from lathe.artefact.onnx.graph_format import FOLDER
from lathe.artefact.plan import Plan
from lathe.compressor.latency.backend import LatencyBackend, backends
from lathe.compressor.latency.workload import Workload
from lathe.compressor.model.checkpoint import Checkpoint


def engine_files(artefact: Path) -> Path:
    """Returns the directory that the engine of an artefact reads, which exists once the artefact is made."""
    return artefact if (artefact / MODEL_FILE).is_file() else artefact / FOLDER


class ByFile:
    """A backend that runs GGUF files, too, in llama.cpp."""

    def __init__(self, graphs: LatencyBackend) -> None:
        self._graphs = graphs
        self.name, self.export = graphs.name, graphs.export

    def build(self, directory: Path, source: Checkpoint, plan: Plan, layers: int) -> None:
        """Writes a graph."""
        self._graphs.build(directory, source, plan, layers)

    def prepare(self, directory: Path, workload: Workload, threads: int | None) -> Callable[[], None]:
        """Returns a function that does one step of a model."""
        file = (directory / MODEL_FILE).is_file()
        engine = backends.get("llamacpp") if file else self._graphs
        return engine.prepare(directory, workload, threads)

    def versions(self) -> dict[str, str]:
        """Returns what the figures of graphs depend on."""
        return self._graphs.versions()
