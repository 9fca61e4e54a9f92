"""What a process and its descendants use, read from outside in /proc: CPU time, peak memory, and states.

A process that has ended and has not been waited for still counts; its memory does not.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_STATE, _USER_TICKS = 2, 13
"""Places in /proc/PID/stat, from 0; user, system and the waited-for children's two follow each other."""


def members(root: int) -> list[int]:
    """Returns the process and its descendants, parents first."""
    found = [root]
    for process in found:
        found.extend(_children(process))
    return found


def cpu_seconds(root: int) -> float:
    """Returns the user and system time of a process, its descendants and those that it has waited for."""
    ticks = 0
    for process in members(root):
        fields = _stat(process)
        ticks += sum(int(value) for value in fields[_USER_TICKS : _USER_TICKS + 4])
    return ticks / _TICKS


def peak_bytes(root: int) -> int:
    """Returns the peak resident sets of a process and its descendants since `reset_peaks`, summed."""
    return sum(map(_peak, members(root)))


def reset_peaks(root: int) -> bool:
    """Starts every peak anew; returns whether the system allowed that."""
    allowed = True
    for process in members(root):
        try:
            Path(f"/proc/{process}/clear_refs").write_text("5")
        except (FileNotFoundError, ProcessLookupError):
            continue
        except OSError:
            allowed = False
    return allowed


def running(processes: Iterable[int]) -> bool:
    """Returns whether one of some processes is neither stopped nor ended."""
    return any(_stat(process)[_STATE : _STATE + 1] not in ([], ["T"], ["Z"]) for process in processes)


def _children(process: int) -> Iterator[int]:
    for task in _tasks(process):
        with suppress(OSError):
            yield from map(int, (task / "children").read_text().split())


def _tasks(process: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{process}/task").iterdir())
    except OSError:
        return []


def _stat(process: int) -> list[str]:
    """Returns the fields of a process's `stat`; none where it is gone."""
    try:
        name, _, rest = Path(f"/proc/{process}/stat").read_text().rpartition(")")
    except OSError:
        return []
    return [*name.split(" (", 1), *rest.split()]


def _peak(process: int) -> int:
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0
