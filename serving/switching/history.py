"""How long each subnet was the one for new requests, and how often each became it."""

from __future__ import annotations

from collections.abc import Callable, Sequence


class SwitchHistory:
    """Counts switches and seconds. Not thread-safe; time comes from `clock`.

    Attributes:
        active: the subnet for new requests.
        switches: how often each subnet became it; the start does not count.
    """

    def __init__(self, subnets: Sequence[str], clock: Callable[[], float]) -> None:
        """Starts with the first subnet."""
        self.active = subnets[0]
        self.switches = dict.fromkeys(subnets, 0)
        self._clock, self._since = clock, clock()
        self._seconds = dict.fromkeys(subnets, 0.0)

    def note(self, subnet: str) -> bool:
        """Records which subnet is the one now; returns whether that is another one than before."""
        if subnet == self.active:
            return False
        self._seconds, self._since = self.seconds(), self._clock()
        self.active = subnet
        self.switches[subnet] += 1
        return True

    def seconds(self) -> dict[str, float]:
        """Returns the seconds of each subnet until now."""
        running = self._seconds[self.active] + self._clock() - self._since
        return self._seconds | {self.active: running}
