"""The context of one run, which all its stages share."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from lathe.compressor.compute.array_store import ArrayStore
from lathe.compressor.compute.progress import Progress
from lathe.compressor.compute.workers import LocalWorkers, Workers
from lathe.compressor.pipeline.options import CompressOptions
from lathe.compressor.pipeline.preflight_result import PreflightResult
from lathe.compressor.pipeline.run_directory import RunDirectory


@dataclass(frozen=True)
class RunContext:
    """One run: what was asked for, what preflight found, and where work and results go.

    Attributes:
        options: What was asked for.
        preflight: What is known of the model, the targets and the machine before a weight is read.
        run_dir: Results of the stages on disk.
        progress: Reports stages, warnings, times and memory.
        workers: Processes that share the work.
    """

    options: CompressOptions
    preflight: PreflightResult
    run_dir: RunDirectory
    progress: Progress
    workers: Workers = field(default_factory=LocalWorkers)

    @cached_property
    def store(self) -> ArrayStore:
        """Keeps big arrays: on disk where memory does not hold them all."""
        directory = self.run_dir.path if self.preflight.memory.on_disk else None
        return ArrayStore(directory, self.options.where)

    @property
    def writing_store(self) -> ArrayStore:
        """Keeps the dense model while it writes text, for which every layer is needed at every token."""
        return ArrayStore(None, self.options.where) if self.preflight.memory.loads_whole else self.store
