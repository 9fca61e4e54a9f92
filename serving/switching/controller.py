"""When new requests go to a faster subnet, and when back: limits of latency, hysteresis, patience.

Pressure is what is seen over what is allowed: of the time per token, of the time to the first token (what has
been seen, and what the request will see that waits longest), and of the slots of the subnet in use. At `SOON`
new requests go to a faster subnet. They come back one subnet at a time, after the pressure that the wider one
is expected to have was at most `ROOM` for a while without a break. A return that is soon regretted doubles
that while, so that a load at the edge, where the wider subnet breaks its limits and the faster one has room,
moves requests ever more rarely.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lathe.serving.switching.window import SlidingWindow

MEASURES = ("tpot", "ttft")
"""What can be limited: seconds per output token after the first, and seconds to the first token."""
SOON, ROOM = 0.8, 0.6
"""Shares of a limit: a faster subnet is taken from the one on, and a wider one up to the other."""
TOKEN_WINDOW_S, REQUEST_WINDOW_S = 2.0, 5.0
LEAST_GAPS, LEAST_REQUESTS = 8, 3
"""Fewer gaps between tokens, or requests, say nothing: one prompt may be long."""
KEPT_SHARE = 0.8
"""The times that so many of the last requests kept count: limits are for nearly all, not for the mean."""
SETTLE_S = 2.0
"""After a switch nothing is decided for so long: what is seen then is still of the subnet before."""
CALM_S, MOST_CALM_S = 10.0, 300.0
"""There has to be room for so long before a return; for at most so long after many that were regretted."""
REGRET_S = 60.0
"""A return is regretted that is undone within this time."""


@dataclass(frozen=True, slots=True)
class Load:
    """What the engines of a family do now.

    Attributes:
        waited: seconds for which the request has waited that waits longest; 0 where none does.
        active: unfinished sequences of the subnet that new requests go to, over its slots.
        all: those of all subnets, over the slots of one.
    """

    waited: float = 0.0
    active: float = 0.0
    all: float = 0.0


class SwitchController:
    """Chooses the level for new requests: 0 is the widest subnet. Not thread-safe; time comes from `clock`.

    Attributes:
        level: the subnet for new requests.
        switches: how often it has changed.
        pressure: the largest share of a limit at the last `update`.
        cause: what that is a share of: tpot, ttft or slots.
    """

    def __init__(
        self, milliseconds: Sequence[float], limits: Mapping[str, float], clock: Callable[[], float]
    ) -> None:
        """Creates a controller.

        Args:
            milliseconds: what each level takes for the same work, widest first; only ratios count.
            limits: seconds, by a name of `MEASURES`.
            clock: seconds.
        """
        self.level = self.switches = 0
        self.pressure, self.cause = 0.0, ""
        self._milliseconds, self._limits, self._clock = tuple(milliseconds), dict(limits), clock
        self._gaps = SlidingWindow(TOKEN_WINDOW_S)
        self._answers = SlidingWindow(REQUEST_WINDOW_S)
        self._first = SlidingWindow(REQUEST_WINDOW_S)
        self._queued = SlidingWindow(REQUEST_WINDOW_S)
        self._switched = self._returned = -float("inf")
        self._calm_since: float | None = None
        self._calm_s = CALM_S

    def token(self, seconds: float) -> None:
        """Records the time between two tokens of a sequence."""
        self._gaps.add(self._clock(), seconds)

    def answered(self, per_token: float) -> None:
        """Records the mean time per token of an answer that has ended."""
        self._answers.add(self._clock(), per_token)

    def queued(self, seconds: float) -> None:
        """Records how long a sequence waited before its first prompt token."""
        self._queued.add(self._clock(), seconds)

    def first_token(self, seconds: float) -> None:
        """Records a time to the first token."""
        self._first.add(self._clock(), seconds)

    def update(self, load: Load) -> int:
        """Decides by what was recorded and what is going on now; returns the level for new requests."""
        now = self._clock()
        shares = self._shares(now, load)
        slots = load.active if "ttft" in self._limits else 0.0
        self.cause, self.pressure = max({**shares, "slots": slots}.items(), key=lambda item: item[1])
        if now - self._switched < SETTLE_S:
            return self.level
        if self.pressure >= SOON:
            self._calm_since = None
            if (faster := self._faster()) != self.level:
                self._go_faster(faster, now)
        elif self.level and self._has_room(max(shares.values()), load):
            self._calm_since = now if self._calm_since is None else self._calm_since
            if now - self._calm_since >= self._calm_s:
                self._returned = now
                self._switch(self.level - 1, now)
        else:
            self._calm_since = None
        return self.level

    def _shares(self, now: float, load: Load) -> dict[str, float]:
        seen: dict[str, float] = {}
        if "tpot" in self._limits:
            of_answers = self._answers.quantile(now, KEPT_SHARE, LEAST_REQUESTS)
            seen["tpot"] = max(self._gaps.mean(now, LEAST_GAPS), of_answers) / self._limits["tpot"]
        if "ttft" in self._limits:
            reading = max(0.0, self._first.mean(now) - self._queued.mean(now))
            coming = load.waited + reading if load.waited else 0.0
            seen["ttft"] = (
                max(self._first.quantile(now, KEPT_SHARE, LEAST_REQUESTS), coming) / self._limits["ttft"]
            )
        return seen

    def _faster(self) -> int:
        """Returns the widest of the faster levels on which the pressure should be gone; else the fastest."""
        last = len(self._milliseconds) - 1
        for level in range(self.level + 1, last):
            if self.pressure * self._times(level) < SOON:
                return level
        return last

    def _has_room(self, share: float, load: Load) -> bool:
        """Returns whether the next wider level would be far from its limits, and not full."""
        times = self._times(self.level - 1)
        return max(share, load.all if "ttft" in self._limits else 0.0) * times <= ROOM

    def _times(self, level: int) -> float:
        return self._milliseconds[level] / self._milliseconds[self.level]

    def _go_faster(self, level: int, now: float) -> None:
        regretted = now - self._returned < REGRET_S
        self._calm_s = min(2 * self._calm_s, MOST_CALM_S) if regretted else CALM_S
        self._switch(level, now)

    def _switch(self, level: int, now: float) -> None:
        self.level, self._switched, self._calm_since = level, now, None
        self.switches += 1
        for window in (self._gaps, self._answers, self._first, self._queued):
            window.clear()
