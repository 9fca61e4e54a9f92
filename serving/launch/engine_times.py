"""How long engines take for the same short work on one model, measured once per machine and kept."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from lathe.artefact.atomic_files import write_json
from lathe.artefact.cache_dir import kept_file
from lathe.artefact.fingerprint import fingerprint
from lathe.serving.backend import SlotEngine

PROMPT, ANSWER = 128, 128
"""Tokens of the request that engines are compared by."""
_SECONDS, _LEAST, _MOST = 0.5, 2, 100
PACKAGES = ("onnxruntime", "llama-cpp-python", "openvino")

OpenEngine = Callable[[], SlotEngine]
"""Loads a model with one slot."""


@dataclass(frozen=True)
class Times:
    """Seconds of a prompt of `PROMPT` tokens, and of a decode step after it."""

    prompt: float
    step: float

    def of(self, metric: str) -> float:
        """Seconds that count for a target's metric; of a whole request, unless that is tpot or ttft."""
        return {"tpot": self.step, "ttft": self.prompt}.get(metric, self.prompt + (ANSWER - 1) * self.step)


def times_of(
    engines: Mapping[str, OpenEngine], model: str, threads: int | None, clock: Callable[[], float]
) -> tuple[dict[str, Times], bool]:
    """Returns the times of several engines, and whether they were measured just now.

    They are kept in Lathe's cache, for the same model, machine, versions of engines and threads. Engines are
    loaded one after another.

    Args:
        engines: how each is loaded, by name.
        model: what tells the model from others.
        threads: of the processor.
        clock: seconds.
    """
    kept = kept_file("engines", [model, sorted(engines), fingerprint(installed(PACKAGES), threads)])
    with suppress(OSError, ValueError, TypeError):
        known = {name: Times(**entry) for name, entry in json.loads(kept.read_text("utf-8")).items()}
        if known.keys() == engines.keys():
            return known, False
    found = {name: measured(load(), clock) for name, load in engines.items()}
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_json(kept, {name: asdict(times) for name, times in found.items()})
    return found, True


def measured(engine: SlotEngine, clock: Callable[[], float] = time.perf_counter) -> Times:
    """Returns the shortest times of an engine: other work on the machine only adds to them."""
    tokens = np.arange(min(PROMPT, engine.max_length // 2), dtype=np.int64) % engine.vocab_size

    def read() -> None:
        engine.reset(0)
        engine.prefill(0, tokens)

    room = min(_MOST, engine.max_length - len(tokens))
    return Times(_shortest(read, _MOST, clock), _shortest(lambda: engine.decode(tokens[:1]), room, clock))


def _shortest(work: Callable[[], object], most: int, clock: Callable[[], float]) -> float:
    """Returns the shortest of as many repetitions as fill some time, at least two if there may be."""
    begun = clock()
    taken: list[float] = []
    while len(taken) < most and (len(taken) < _LEAST or clock() - begun < _SECONDS):
        before = clock()
        work()
        taken.append(clock() - before)
    return min(taken)


def installed(packages: Iterable[str]) -> dict[str, str]:
    """Returns the versions of those packages that are installed."""
    found = {}
    for name in packages:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
