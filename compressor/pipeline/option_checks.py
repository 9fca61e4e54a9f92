"""Checks of the options of `compress` that need no file and no model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lathe.artefact.errors import UserError

if TYPE_CHECKING:
    from lathe.compressor.pipeline.options import CompressOptions


def check_options(options: CompressOptions) -> None:
    """Checks that the options go together.

    Raises:
        UserError: They do not.
    """
    _check_targets(options)
    _check_open_targets(options)
    _check_exports(options)
    _check_numbers(options)
    _check_place(options)


def _check_targets(options: CompressOptions) -> None:
    _ = options.workload
    if options.target_throughput is not None and (
        options.target_latency_ms is not None or options.latency_metric != "tpot"
    ):
        raise UserError("--target-throughput is a target of tpot", "Leave the other latency options out.")
    targets = [options.latency_limit_ms, options.target_speedup, options.target_memory, options.keep]
    given = [target for target in targets if target is not None]
    if not given and not options.plan and not options.front and options.perplexity_increase is None:
        raise UserError(
            "no target is given",
            "Give --target-latency, --target-speedup, --target-memory, --keep or --plan.",
        )
    if options.plan and (given or options.front or options.perplexity_increase):
        raise UserError("--plan says all widths, so no target goes with it", "Give one of the two.")


def _check_open_targets(options: CompressOptions) -> None:
    if options.open_ended and (options.latency_limit_ms or options.target_speedup):
        name = "--front" if options.front else "--max-perplexity-increase"
        raise UserError(f"{name} leaves the latency open", "Leave the latency target out.")
    if options.front and options.perplexity_increase is not None:
        raise UserError("--front is for every quality", "Leave --max-perplexity-increase out.")
    if options.latency_limit_ms is not None and options.target_speedup is not None:
        raise UserError("--target-latency and --target-speedup exclude each other", "Give one of them.")


def _check_exports(options: CompressOptions) -> None:
    from lathe.compressor.latency.backend import backends

    if "checkpoint" not in options.exports:
        raise UserError("an artefact has a checkpoint in any case", "Add checkpoint to --export.")
    if len(options.graphs) > 1:
        raise UserError(
            f"an artefact holds one ONNX graph, not {' and '.join(options.graphs)}",
            "Export one of them, and make the other with `lathe export`.",
        )
    if (options.timed or options.front) and not options.runs:
        export = backends.get(options.backend).export
        what = "--front" if options.front else "a latency target"
        raise UserError(f"{what} on {options.backend} needs that export", f"Add {export} to --export.")
    if options.profile and not options.timed:
        raise UserError("--profile is for a latency target", "Give --target-latency or --target-speedup.")


def _check_numbers(options: CompressOptions) -> None:
    from lathe.compressor.calibration.amount import LEAST

    if options.threads is not None and options.threads < 1:
        raise UserError(f"--threads {options.threads} is not a number of threads")
    if options.tensor_parallel < 1:
        raise UserError(
            f"--tensor-parallel {options.tensor_parallel} is not a number of devices", "Give at least 1."
        )
    if options.calibration_tokens < LEAST:
        raise UserError(
            f"--calibration-tokens {options.calibration_tokens} is too few", f"Give at least {LEAST}."
        )
    if not 0 <= options.seed < 2**63:
        raise UserError(f"--seed {options.seed} is not a seed", "Give a whole number from 0.")
    if not 0 <= options.tolerance <= 1:
        raise UserError(f"--tolerance {options.tolerance} is not a share from 0 to 1")
    if options.evaluations is not None and options.evaluations < 1:
        raise UserError(f"--evaluations {options.evaluations} is too few", "Give at least 1.")


def _check_place(options: CompressOptions) -> None:
    from lathe.compressor.compute.device import CPU

    if options.worker_threads is not None and options.ray is None:
        raise UserError("--worker-threads is for workers", "Give --ray, or leave it out.")
    if options.where != CPU and options.ray is not None:
        raise UserError("--device is for a run of one process", "Leave it or --ray out.")
    if options.place and options.memory_limit:
        raise UserError("--memory-limit is for a run of one process", "Leave it or --ray out.")
