"""One column of the comparison: its systems, each in a process of its own, compute interleaved."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serving.agreement import Reference, agreement
from benchmarks.serving.bandwidth import Reader
from benchmarks.serving.process import FailedError, Worker
from benchmarks.serving.rival import ROUNDED, rivals

_IDLE_SECONDS = 1.0
_QUIET_SECONDS = 0.3


@dataclass(frozen=True)
class Setting:
    """models: directories by name.

    prompts: int64 [B, S]; no batch is larger. steps: of decoding, a turn. pythons: interpreters to use in
    place of the rivals' own.
    """

    models: Mapping[str, Path]
    references: Mapping[str, Reference]
    prompts: np.ndarray
    batches: Sequence[int]
    steps: int
    rounds: int
    threads: int
    names: Sequence[str]
    pythons: Mapping[str, str]
    work: Path

    @property
    def length(self) -> int:
        """Tokens that a sequence has room for: as many as it comes to, in whole sixteens."""
        answers = (self.steps, *(wanted.tokens.shape[1] for wanted in self.references.values()))
        return -(-(self.prompts.shape[1] + max(answers) + 1) // 16) * 16


@dataclass
class Entrant:
    """A system in a column: its worker while it runs, and what is known of it."""

    name: str
    rival: str
    model: str
    facts: dict[str, Any] = field(default_factory=dict)
    worker: Worker | None = None

    def fail(self, reason: FailedError) -> None:
        self.facts["failed"] = str(reason)
        print(f"  {self.name}: {reason}", file=sys.stderr, flush=True)
        if self.worker is not None:
            self.worker.close()
            self.worker = None


Column = dict[str, Any]


def run_column(
    column: str, setting: Setting, reader: Reader, before: Column | None, save: Callable[[Column], None]
) -> Column:
    """Facts of every system, those that could not run too, and the raw samples of every round.

    before: what an earlier run saved; its turns are kept. save: is called after every turn of all systems.
    """
    entrants = [
        Entrant(name if model == "dense" else f"{name} {model}", name, model)
        for name in setting.names
        for model in rivals.get(name).models
    ]
    cells = [(index, batch) for index in range(setting.rounds) for batch in setting.batches]
    rounds = before["rounds"] if before else []
    missing = cells[len(rounds) :]
    if before and not missing:
        return before
    with _closing(entrants):
        for entrant in entrants:
            _attempt(entrant, lambda one: _open(one, column, setting))
        for entrant in entrants:
            _attempt(entrant, lambda one: _check(one, column, setting))
        _watch_idle(entrants)
        found = {"systems": {entrant.name: entrant.facts for entrant in entrants}, "rounds": rounds}
        for index, batch in missing:
            rounds.append(_round(index, batch, entrants, setting, reader))
            save(found)
    return found


@contextmanager
def _closing(entrants: Sequence[Entrant]) -> Iterator[None]:
    try:
        yield
    finally:
        for entrant in entrants:
            if entrant.worker is not None:
                entrant.worker.close()


def _attempt(entrant: Entrant, act: Callable[[Entrant], None]) -> None:
    """Unless it failed before."""
    if "failed" not in entrant.facts:
        try:
            act(entrant)
        except FailedError as reason:
            entrant.fail(reason)


def _open(entrant: Entrant, column: str, setting: Setting) -> None:
    rival = rivals.get(entrant.rival)
    entrant.facts |= {"title": rival.title, "model": entrant.model, "format": rival.formats.get(column)}
    if column not in rival.formats:
        raise FailedError(f"has no {column}")
    stem = f"{setting.models[entrant.model].name}-{entrant.rival}-{column}"
    log = setting.work / f"{stem}.log"
    python = setting.pythons.get(entrant.rival, rival.python)
    entrant.worker = Worker(entrant.rival, rival, python, setting.threads, log)
    start = time.monotonic()
    entrant.facts |= entrant.worker.ask(
        "open",
        model=str(setting.models[entrant.model].resolve()),
        format=rival.formats[column],
        out=str((setting.work / stem).resolve()),
        threads=setting.threads,
        batch=len(setting.prompts),
        length=setting.length,
    )
    entrant.facts["resident_bytes"] = entrant.worker.resident_bytes()
    print(f"  {entrant.name}: loaded in {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)


def _check(entrant: Entrant, column: str, setting: Setting) -> None:
    wanted = setting.references[entrant.model]
    count, steps = len(wanted.tokens), wanted.tokens.shape[1] - 1
    prompts, file = setting.prompts[:count].tolist(), setting.work / "logits.npy"
    assert entrant.worker is not None
    saved = entrant.worker.ask("logits", prompts=prompts, file=str(file.resolve()))["saved"]
    said = entrant.worker.ask("turn", prompts=prompts, steps=steps)
    tokens = np.array(said["tokens"])
    entrant.facts["agreement"] = agreement(
        np.load(file) if saved else None, tokens, wanted, column in ROUNDED
    )


def _watch_idle(entrants: Sequence[Entrant]) -> None:
    """What the loaded systems burn while they wait, as a share of one core."""
    running = [(entrant, entrant.worker) for entrant in entrants if entrant.worker is not None]
    time.sleep(_QUIET_SECONDS)
    before = [worker.cpu_seconds() for _, worker in running]
    time.sleep(_IDLE_SECONDS)
    for (entrant, worker), start in zip(running, before, strict=True):
        entrant.facts["idle_cpu_share"] = round((worker.cpu_seconds() - start) / _IDLE_SECONDS, 3)


def _round(
    index: int, batch: int, entrants: Sequence[Entrant], setting: Setting, reader: Reader
) -> dict[str, Any]:
    """A turn for each system, the other way round in every second round; memory is read before each."""
    turns: dict[str, Any] = {}

    def take(entrant: Entrant) -> None:
        rate = reader.bytes_per_second(entrant.facts["streamed_bytes"])
        assert entrant.worker is not None
        turn = entrant.worker.ask("turn", prompts=setting.prompts[:batch].tolist(), steps=setting.steps)
        turns[entrant.name] = {
            "prefill_ms": round(turn["prefill_ms"], 4),
            "decode_ms": [round(ms, 4) for ms in turn["decode_ms"]],
            "read_bytes_per_second": round(rate),
        }

    memory = reader.bytes_per_second()
    for entrant in entrants if index % 2 == 0 else reversed(entrants):
        _attempt(entrant, take)
    return {"round": index, "batch": batch, "memory_bytes_per_second": round(memory), "turns": turns}
