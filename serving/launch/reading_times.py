"""How long pieces of a prompt take, measured once per machine and kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import numpy as np

from lathe.artefact.atomic_files import write_json
from lathe.artefact.cache_dir import kept_file
from lathe.artefact.fingerprint import fingerprint
from lathe.artefact.openvino.prompt_reader import filled
from lathe.serving.launch.engine_times import installed
from lathe.serving.scheduler.scheduler import PREFILL_CHUNK

PIECE = PREFILL_CHUNK
SIZES = (8, 32, 64, 96, PIECE)
"""Tokens of the pieces that are measured."""
PACKAGES = ("onnxruntime", "openvino")
_LEAST, _MOST, _SECONDS = 2, 5, 2.0
"""Turns of each engine with pieces of one size; no more than the fewest after so much time."""

Times = dict[int, float]
"""Seconds by tokens."""


def kept_times(
    engines: Mapping[str, Callable[[int], object]],
    sizes: Sequence[int],
    model: str,
    threads: int | None,
    clock: Callable[[], float],
) -> tuple[dict[str, Times], bool]:
    """Returns the times of several engines, and whether they were measured just now.

    They are kept in Lathe's cache, for the same model, machine, versions of engines and threads.

    Args:
        engines: each reads as many tokens as it is told, by name.
        sizes: tokens.
        model: what tells the model from others.
        threads: of the processor.
        clock: seconds.
    """
    stated = [model, list(engines), list(sizes), fingerprint(installed(PACKAGES), threads)]
    kept = kept_file("prompts", stated)
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        known = json.loads(kept.read_text("utf-8"))
        return {one: {n: float(known[one][str(n)]) for n in sizes} for one in engines}, False
    found: dict[str, Times] = {one: {} for one in engines}
    for size in sizes:
        for one, seconds in _shortest(engines, size, clock).items():
            found[one][size] = seconds
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_json(kept, found)
    return found, True


def _shortest(
    engines: Mapping[str, Callable[[int], object]], size: int, clock: Callable[[], float]
) -> dict[str, float]:
    """Returns the shortest of some turns of each engine, taken by turns: other work only adds to them.

    The first turn is not counted: kernels are made in it.
    """
    taken: dict[str, list[float]] = {one: [] for one in engines}
    begun = clock()
    for turn in range(_MOST):
        if turn >= _LEAST and clock() - begun > _SECONDS:
            break
        for one, read in engines.items():
            before = clock()
            read(size)
            taken[one].append(clock() - before)
    return {one: min(seconds[1:]) for one, seconds in taken.items()}


def faster_from(reader: Times, other: Times) -> int:
    """Returns the fewest tokens from which on a reader that fills up pieces is the faster one.

    It is a whole piece where there are none. Between the sizes that were measured the other engine's time is
    taken to grow evenly.
    """
    sizes = sorted(other)
    for count in range(sizes[-1], 0, -1):
        here = reader[min((n for n in sizes if n >= filled(count)), default=sizes[-1])]
        if here > np.interp(count, sizes, [other[n] for n in sizes]):
            return min(count + 1, sizes[-1])
    return 1
