"""Two runs taking turns, stage by stage: the one that is behind goes on, so that other load hits both."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from benchmarks.compress.staged_process import Segment, StagedProcess
from benchmarks.compress.stages import Place, stage_name

Told = Callable[[str, Segment], None]


def interleave(sides: Mapping[str, StagedProcess], told: Told) -> dict[str, list[Segment]]:
    """Runs processes to their ends, one at a time; returns the segments of each.

    Of runs at the same place the one goes on that ran longer ago, at first in the order given. When one
    fails, the others are not run on.

    Args:
        sides: the processes, by name; none has started.
        told: is given every segment when it has ended.
    """
    places = dict.fromkeys(sides, Place())
    turns = {name: number - len(sides) for number, name in enumerate(sides)}
    segments: dict[str, list[Segment]] = {name: [] for name in sides}
    failed = False
    while (unfinished := [name for name in sides if sides[name].exit_status is None]) and not failed:
        name = min(unfinished, key=lambda name: (places[name], turns[name]))
        segment = sides[name].run_stage()
        segments[name].append(segment)
        turns[name] = sum(map(len, segments.values()))
        places[name] = places[name].after(stage_name(segment.title))
        failed = sides[name].failed
        told(name, segment)
    return segments
