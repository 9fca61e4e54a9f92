"""The latency target of a run: of this machine or of a profile, and whether it can be reached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from lathe.artefact.errors import UserError
from lathe.artefact.fingerprint import fingerprint
from lathe.compressor.latency.backend import versions_here
from lathe.compressor.latency.ends import Ends
from lathe.compressor.latency.profile import Profile
from lathe.compressor.pipeline.options import CompressOptions
from lathe.compressor.pipeline.preflight_result import PreflightResult
from lathe.compressor.report.wording import limit_of_pruning

_FLOOR_MARGIN = 1.1


def with_latency_target(
    options: CompressOptions, found: PreflightResult, known: Ends | None
) -> PreflightResult:
    """Returns the result with a profile's table, the times of dense and the smallest subnet, and the target.

    Args:
        options: What was asked for.
        found: What else is known.
        known: The latencies, where they were timed before.

    Raises:
        UserError: the target is below what the smallest subnet takes, or a plan of a family is the whole
            model.
    """
    if options.profile:
        found = _profiled(options, found, options.profile)
    return _unpruned(options, _time(options, found, known) if options.timed else found)


def _profiled(options: CompressOptions, found: PreflightResult, path: Path) -> PreflightResult:
    """Returns the result with a profile's table, and with whether the profile is of this machine."""
    benchmark, shape = found.benchmark, found.source.shape
    table = Profile.load(path).table(options.backend, shape, benchmark.workload)
    own = fingerprint(versions_here(benchmark.backend), benchmark.threads)
    here = table.estimate is None and table.fingerprint == own
    if not here:
        origin = f"an estimate, {table.estimate}" if table.estimate else _differences(table.fingerprint, own)
        benchmark.progress.say(f"  profile: {origin}; the artefact will not be timed against it here")
    return replace(found, table=table, on_this_machine=here)


def _differences(theirs: Mapping[str, object], own: Mapping[str, object]) -> str:
    """Returns in what a profile's machine and its settings are not those of here."""
    names = [name for name in {**theirs, **own} if theirs.get(name) != own.get(name)]
    return "; ".join(
        f"{name.replace('_', ' ')} {theirs.get(name, 'none')}, here {own.get(name, 'none')}" for name in names
    )


def _time(options: CompressOptions, found: PreflightResult, known: Ends | None) -> PreflightResult:
    """Returns the result with the latencies of dense and the smallest subnet, and the target.

    Raises:
        UserError: the target is below what the smallest subnet takes.
    """
    found = replace(found, ends=known or _ends(found))
    if options.open_ended or not found.ends or not (limit := found.pruning_limit):
        return found
    dense, floor = found.ends.dense, found.ends.floor
    target = options.latency_limit_ms or dense / (options.speedup or 1.0)
    least = floor * _FLOOR_MARGIN
    if least > target:
        whose = f"the plan {options.tightest_plan} with " if options.several_targets else ""
        raise UserError(
            f"{whose}a {found.benchmark.workload.metric} of {target:.3g} ms is out of reach: dense "
            f"takes {dense:.3g} ms, the smallest subnet (one narrow attention block) {floor:.3g} ms: "
            f"{limit_of_pruning(limit)}",
            _within_reach(found, dense, least),
        )
    _check_widest(options, dense, found.ends.unpruned)
    return replace(found, provisional_target_ms=target)


def _check_widest(options: CompressOptions, dense: float, unpruned: float) -> None:
    """Checks that no subnet of a family is the whole model.

    Raises:
        UserError: the model as it is meets the target of one.
    """
    for name, own in options.plans.items():
        target = own.latency_limit_ms or dense / (own.speedup or 1.0)
        if unpruned <= target:
            raise UserError(
                f"the plan {name} is the whole model, which takes {unpruned:.3g} of {target:.3g} ms",
                "Leave that target out.",
            )


def _within_reach(found: PreflightResult, dense: float, least: float) -> str:
    """Returns what to ask for instead of a target out of reach."""
    if least >= dense:
        return "Run again when the machine is quieter; pruning gains nothing here."
    cut = "" if found.vocabulary else " --vocabulary TEXT makes the head smaller."
    return f"Ask for at least {least:.2g} ms ({dense / least:.3g}x).{cut}"


def _unpruned(options: CompressOptions, found: PreflightResult) -> PreflightResult:
    """Returns the result with the dense plan where a cut vocabulary alone meets the targets for sure."""
    target, ends = found.provisional_target_ms, found.ends
    sure = target is None or ends is None or ends.unpruned * _FLOOR_MARGIN <= target
    if not found.vocabulary or found.plan or options.open_ended or not (sure and found.unpruned_meets):
        return found
    found.benchmark.progress.say("  the cut vocabulary alone meets the target: no layer is pruned")
    return replace(found, plan=found.source.shape.dense_plan)


def _ends(found: PreflightResult) -> Ends:
    """Returns the latencies of the profile, or times them quickly."""
    if found.table:
        return Ends.of_table(found.table, found.source.shape.dense_plan, found.choices.smallest)
    return Ends.measured(found.benchmark, found.choices.smallest, found.whole.shape.vocab_size)
