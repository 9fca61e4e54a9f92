"""A machine of make-believe: its clock goes on only while models compute, or while others hold it up."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable
from pathlib import Path

from lathe.artefact.plan import Plan
from lathe.compressor.compute.progress import Progress
from lathe.compressor.latency.clock import Clock
from lathe.compressor.latency.workload import Workload
from lathe.compressor.model.checkpoint import Checkpoint
from support.steady_clock import FACTORS, SHARES, undisturbed

__all__ = ["ROW_MS", "SHARES", "Told", "VirtualMachine", "undisturbed_ms"]

ROW_MS = 1e-4
"""What a row of the vocabulary takes."""


def undisturbed_ms(plan: Plan, rows: int, metric: str = "tpot") -> float:
    head = rows * ROW_MS * SHARES.get(plan.head_bits, 1.0)
    return (undisturbed(plan) + head) * FACTORS[metric]


class Told(Progress):
    """Progress that keeps what it was told to say."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text.strip())


class VirtualMachine:
    """A clock, and a backend whose models take what their plans say, times a slowdown.

    Attributes:
        name: Of the backend.
        slowdown: By seconds on the wall: what every step takes longer.
        of_load: By the number of a load: what a model takes longer as long as it is loaded.
        stolen: By seconds on the wall: the share of a step that another process has the processor.
        load_seconds: What loading a model takes.
        most_alive: The most models that were loaded at a time.
        built: The plans that were built, and their rows.
    """

    name = export = "virtual"

    def __init__(self) -> None:
        self.slowdown: Callable[[float], float] = lambda _: 1.0
        self.of_load: Callable[[int], float] = lambda _: 1.0
        self.stolen: Callable[[float], float] = lambda _: 0.0
        self.load_seconds = 0.1
        self.most_alive = self.loads = 0
        self.built: list[tuple[Plan, int]] = []
        self._wall = self._cpu = 0.0
        self._alive: weakref.WeakSet[_Model] = weakref.WeakSet()
        self.clock = Clock(lambda: self._wall, lambda: self._cpu, lambda: 0)

    def versions(self) -> dict[str, str]:
        return {"virtual": "1"}

    def build(self, directory: Path, source: Checkpoint, plan: Plan, layers: int) -> None:
        assert layers == len(plan)
        rows = source.shape.vocab_size
        assert source.config["vocab_size"] == rows
        self.built.append((plan, rows))
        (directory / "model.json").write_text(json.dumps({"plan": plan.to_json(), "rows": rows}))

    def prepare(self, directory: Path, workload: Workload, threads: int | None) -> Callable[[], None]:
        model = json.loads((directory / "model.json").read_text())
        self.loads += 1
        self.pass_time(self.load_seconds)
        took = undisturbed_ms(Plan.from_json(model["plan"]), model["rows"], workload.metric)
        made = _Model(self, took * self.of_load(self.loads))
        self._alive.add(made)
        self.most_alive = max(self.most_alive, len(self._alive))
        return made

    def pass_time(self, seconds: float) -> None:
        """Lets a time go by in which this process computes, unless others do."""
        wall = seconds * self.slowdown(self._wall) / (1 - self.stolen(self._wall))
        self._cpu += wall * (1 - self.stolen(self._wall))
        self._wall += wall


class _Model:
    def __init__(self, machine: VirtualMachine, milliseconds: float) -> None:
        self._machine, self._seconds = machine, milliseconds / 1e3

    def __call__(self) -> None:
        self._machine.pass_time(self._seconds)
