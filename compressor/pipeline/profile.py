"""Makes profiles: every workload of a grid timed on this machine, or estimated for another one."""

from __future__ import annotations

import os

from lathe.artefact.atomic_files import write_json
from lathe.artefact.errors import UserError
from lathe.compressor.compute.progress import Progress
from lathe.compressor.export.base import Exporter, exporters
from lathe.compressor.latency.backend import backends
from lathe.compressor.latency.cache import cached_table
from lathe.compressor.latency.measure import LatencyBenchmark
from lathe.compressor.latency.profile import Profile
from lathe.compressor.latency.roofline import estimate
from lathe.compressor.latency.table import LatencyTable
from lathe.compressor.latency.workload import Workload, fitted
from lathe.compressor.model.checkpoint import Checkpoint, open_config
from lathe.compressor.model.rounding import BITS
from lathe.compressor.pipeline.profile_options import ProfileOptions
from lathe.compressor.search.mixed_space import MixedSpace
from lathe.compressor.search.space import Choices, make_space


def make_profile(options: ProfileOptions, progress: Progress) -> Profile:
    """Measures or estimates the tables, and writes the profile.

    Raises:
        UserError: the input is bad, which is found before anything is timed, or the file exists or cannot be
            written.
    """
    _check_output(options)
    backend, grid = backends.get(options.backend), options.workloads()
    source = open_config(options.model)
    space = _space(source, exporters.get(backend.export), options)
    workloads = [fitted(workload, source.positions, defaulted) for workload, defaulted in grid]

    def table(workload: Workload) -> LatencyTable:
        if options.hardware:
            return estimate(source.shape, workload, options.hardware, options.dtype)
        benchmark = LatencyBenchmark(
            source, backend, workload, options.threads, progress, options.measure_seconds
        )
        return cached_table(benchmark, space, refresh=False)

    tables = []
    for number, workload in enumerate(workloads, 1):
        progress.say(f"{number} of {len(workloads)}: {workload}")
        tables.append(table(workload))
    profile = Profile(options.backend, source.shape.to_json(), tables)
    write_json(options.out, profile.to_json())
    return profile


def _space(source: Checkpoint, exporter: Exporter, options: ProfileOptions) -> Choices:
    """Returns the levels that a table is to be of: with every format that a plan can give a block, if any.

    Raises:
        UserError: the model has no such formats, or an estimate was asked for, which knows none.
    """
    widths = make_space(source.shape)
    if exporter.rounded is None:
        return widths
    if options.hardware:
        raise UserError(
            f"{options.backend} cannot be estimated: what weights of several formats take is only measured",
            "Leave --hardware out.",
        )
    exporter.check(source)
    return MixedSpace(widths, BITS)


def _check_output(options: ProfileOptions) -> None:
    out = options.out
    if out.is_dir():
        raise UserError(f"{out} is a directory", "Give a file name.")
    if out.exists() and not options.overwrite:
        raise UserError(f"{out} exists", "Choose another --output, or give --overwrite.")
    if not os.access(out.absolute().parent, os.W_OK):
        raise UserError(f"cannot write {out}: {out.absolute().parent} is not a writable directory")
