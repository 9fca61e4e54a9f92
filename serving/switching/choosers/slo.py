"""`--switch slo`: a faster subnet while limits of latency are about to break."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

from lathe.artefact.errors import UserError
from lathe.artefact.family import Family, FamilyPlan
from lathe.serving.backend import GenerationRequest, Observer, ServingBackend
from lathe.serving.latency_limits import parse_limits
from lathe.serving.metrics.switching import SwitchCollector, SwitchFigures
from lathe.serving.options import ServeOptions
from lathe.serving.switching.chooser import Choice, Chooser, choosers, general_plans
from lathe.serving.switching.controller import MEASURES, Load, SwitchController
from lathe.serving.switching.history import SwitchHistory
from lathe.serving.switching.watcher import Watcher

NAME = "slo"
TICK_S = 0.25
"""The controller is asked with every request, and so often without one."""

log = logging.getLogger("lathe.serving")


class SloChooser(Chooser):
    """Asks a `SwitchController`, which it tells what the engines do.

    Attributes:
        milliseconds: of the same work, by the name of the subnet, widest first.
    """

    def __init__(
        self,
        milliseconds: Mapping[str, float],
        limits: Mapping[str, float],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Creates a chooser.

        Args:
            milliseconds: of the same work, by the name of the subnet, widest first.
            limits: as those of `SwitchController`.
            clock: that of the requests' arrivals, in seconds.
        """
        self.milliseconds = dict(milliseconds)
        self._subnets, self._clock = tuple(milliseconds), clock
        self._controller = SwitchController(tuple(milliseconds.values()), limits, clock)
        self._history = SwitchHistory(self._subnets, clock)
        self._why = ""
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._tick, name="lathe-switch", daemon=True)

    def choose(self, requests: Sequence[GenerationRequest]) -> Choice:  # noqa: ARG002
        with self._lock:
            self._update()
            why = self._why if self._controller.level else "within limits"
            return Choice(self._history.active, f"{NAME}: {why}")

    def observer(self, subnet: str, metrics: Observer) -> Observer:  # noqa: ARG002
        return Watcher(metrics, self._controller, self._lock)

    def watch(self, backends: Mapping[str, ServingBackend]) -> None:
        super().watch({name: backends[name] for name in self._subnets})
        self._thread.start()

    def collector(self, model: str) -> SwitchCollector:
        return SwitchCollector(model, self.figures)

    def figures(self) -> SwitchFigures:
        """Returns what the metrics tell."""
        with self._lock:
            self._update()
            return SwitchFigures(
                dict(self._history.switches), self._history.seconds(), self._controller.pressure
            )

    def close(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        super().close()

    def _tick(self) -> None:
        while not self._stop.wait(TICK_S):
            with self._lock:
                self._update()

    def _update(self) -> None:
        before = self._controller.level
        subnet = self._subnets[self._controller.update(self._load())]
        if not self._history.note(subnet):
            return
        share = f"{self._controller.cause} at {self._controller.pressure:.0%} of its limit"
        if self._controller.level > before:
            self._why = share
        log.warning("new requests go to %s: %s", subnet, share)

    def _load(self) -> Load:
        """Returns what the engines do; nothing before they are open."""
        if not self.backends:
            return Load()
        now = self._clock()
        arrived = [since for one in self.backends.values() if (since := one.waiting_since) is not None]
        held = {name: _slots(backend) for name, backend in self.backends.items()}
        waited = max((now - since for since in arrived), default=0.0)
        return Load(waited, held[self._history.active], sum(held.values()))


def _slots(backend: ServingBackend) -> float:
    """Returns the unfinished sequences of an engine over its slots."""
    return (backend.num_running + backend.num_waiting) / backend.max_batch


@choosers.register(NAME)
def make(family: Family, options: ServeOptions) -> SloChooser:
    """Makes the chooser.

    Raises:
        UserError: there are no limits, or no milliseconds or no second subnet to choose by.
    """
    if options.slo is None:
        raise UserError(f"--switch {NAME} needs limits", "Give them, such as --slo tpot=30ms,ttft=200ms.")
    limits = parse_limits(options.slo, MEASURES)
    plans = general_plans(family)
    if len(plans) < 2:
        raise UserError(
            f"{family.path} has one subnet for any text, {plans[0].name}, and nothing to switch to",
            f"Serve it without --switch {NAME}.",
        )
    return SloChooser(_milliseconds(family, plans), limits)


def _milliseconds(family: Family, plans: Sequence[FamilyPlan]) -> dict[str, float]:
    """Returns what each plan takes, measured or else predicted; none less than a narrower one.

    They were measured one after another, and a machine may have been busy with one of them.

    Raises:
        UserError: the family does not state them.
    """
    for kind in ("measured_ms", "predicted_ms"):
        stated = [getattr(plan, kind) for plan in plans]
        if None not in stated:
            rising = accumulate(reversed(stated), max)
            return dict(zip((plan.name for plan in plans), reversed(list(rising)), strict=True))
    raise UserError(
        f"{family.path} does not state the milliseconds of all its subnets, by which --switch {NAME} goes",
        "Compress again.",
    )
