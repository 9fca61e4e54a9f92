"""Opening a run: its directory, its workers, its limit of memory, and what it resumes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from lathe.compressor.compute.device import CPU, DeviceMemory, out_of_memory_as_user_error
from lathe.compressor.compute.progress import Progress
from lathe.compressor.compute.workers.start import workers_at
from lathe.compressor.pipeline.inputs import resume
from lathe.compressor.pipeline.memory_limit import memory_limit
from lathe.compressor.pipeline.options import CompressOptions
from lathe.compressor.pipeline.preflight_result import PreflightResult
from lathe.compressor.pipeline.run_context import RunContext
from lathe.compressor.pipeline.run_directory import RunDirectory


@contextmanager
def open_run(
    options: CompressOptions, preflight: PreflightResult, progress: Progress
) -> Iterator[RunContext]:
    """Opens the run directory and starts the workers; closes both at the end of the block.

    Raises:
        UserError: the run directory or the workers cannot be used, or memory ran out.
    """
    with (
        memory_limit(options.memory_limit),
        out_of_memory_as_user_error(options.where),
        closing(RunDirectory(options.out)) as run_dir,
        workers_at(options.place, progress) as workers,
    ):
        context = RunContext(options, preflight, run_dir, progress, workers)
        if options.where != CPU:
            progress.device = DeviceMemory(options.where)
        resume(context)
        yield context
