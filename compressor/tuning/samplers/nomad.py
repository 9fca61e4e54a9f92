"""NOMAD's mesh adaptive direct search (Audet and Dennis, SIAM J. Optim. 2006), in a process of its own.

PyNomad keeps one random generator for all searches of a process, prints to stdout whatever it is told, and
ends the process when a mesh of few integers is used up. So each search has its process (`nomad_process.py`),
which asks for losses one by one. It knows nothing of earlier commands: losses in the database are given again
in the order in which it asks, until it comes to a point that is new.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

from lathe.compressor.tuning.sampler import Sampler, samplers
from lathe.compressor.tuning.search import Search
from lathe.compressor.tuning.space import Point

_PROCESS = Path(__file__).with_name("nomad_process.py")
_SEARCHES = 20
"""So many searches in a row that come to nothing new are the last."""


def search(found: Search) -> None:
    """Searches from the default; where a search ends early, again from another point."""
    drawn, idle, number = random.Random(found.seed), 0, 0
    tops = [len(values) - 1 for values in found.space.values.values()]
    start = found.space.default or tuple(top // 2 for top in tops)
    while found.more and idle < _SEARCHES:
        before = found.done
        _search_once(found, start, tops, number)
        start = tuple(drawn.randint(0, top) for top in tops)
        number, idle = number + 1, 0 if found.done > before else idle + 1


def _search_once(found: Search, start: Point, tops: list[int], number: int) -> None:
    """Searches from one point. NOMAD is told of the knobs alone that have more than one value."""
    free = [at for at, top in enumerate(tops) if top]
    process = subprocess.Popen(
        [sys.executable, "-P", str(_PROCESS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin
    assert process.stdout
    try:
        seed = (found.seed * 1_000_003 + number) % 2**31
        asked = {"start": [start[at] for at in free], "tops": [tops[at] for at in free], "seed": seed}
        process.stdin.write(json.dumps(asked) + "\n")
        process.stdin.flush()
        for line in process.stdout:
            chosen = dict(zip(free, json.loads(line), strict=True))
            loss = found.evaluate(tuple(chosen.get(at, 0) for at in range(len(tops))))
            if not found.more:
                return
            process.stdin.write(f"{loss!r}\n")
            process.stdin.flush()
    except BrokenPipeError:
        return  # it ended while a trial ran
    finally:
        process.kill()
        process.communicate()


samplers.add("nomad", Sampler(search, needs="PyNomad"))
