"""Which sequence lives in which slot. Decoding ones fill a prefix; the one being read comes after them."""

from __future__ import annotations

from lathe.serving.backend import SlotEngine
from lathe.serving.scheduler.sequence import Sequence


class Slots:
    """Keeps `decoding[i]` in slot i and `reading`, when there is one, in slot len(decoding)."""

    def __init__(self, engine: SlotEngine) -> None:
        self._engine = engine
        self.decoding: list[Sequence] = []
        self.reading: Sequence | None = None

    @property
    def free(self) -> bool:
        """Whether another sequence can start to be read."""
        return self.reading is None and len(self.decoding) < self._engine.max_batch

    @property
    def reading_slot(self) -> int:
        return len(self.decoding)

    @property
    def occupied(self) -> int:
        return len(self.decoding) + (self.reading is not None)

    def read(self, sequence: Sequence) -> None:
        self._engine.reset(self.reading_slot)
        self.reading = sequence

    def promote(self) -> None:
        """The prompt is read: the sequence joins those that decode, in place."""
        if self.reading is not None:
            self.decoding.append(self.reading)
            self.reading = None

    def drop_reading(self) -> None:
        self._engine.reset(self.reading_slot)
        self.reading = None

    def drop(self, slot: int) -> None:
        """Free a decoding slot: the last one moves into it, the one being read closes up."""
        last = len(self.decoding) - 1
        if slot != last:
            self._engine.move(last, slot)
            self.decoding[slot] = self.decoding[last]
        if self.reading is not None:
            self._engine.move(last + 1, last)
            self._engine.reset(last + 1)
        else:
            self._engine.reset(last)
        self.decoding.pop()
