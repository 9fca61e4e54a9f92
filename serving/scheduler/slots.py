"""Which sequence lives in which slot of the engine."""

from __future__ import annotations

from lathe.serving.backend import SlotEngine
from lathe.serving.scheduler.sequence import Sequence, SequenceStatus


class Slots:
    """Keeps `sequences[i]` in slot i.

    The decoding sequences come first, as `SlotEngine.decode` needs them. At most one sequence is being
    prefilled; it is the last.
    """

    def __init__(self, engine: SlotEngine) -> None:
        self._engine = engine
        self.sequences: list[Sequence] = []

    @property
    def prefilling(self) -> Sequence | None:
        """The sequence whose prompt is being prefilled, if there is one."""
        last = self.sequences[-1] if self.sequences else None
        return last if last is not None and last.status is SequenceStatus.PREFILLING else None

    @property
    def decoding(self) -> list[Sequence]:
        """The sequences that decode, in the order of their slots."""
        return self.sequences.copy() if self.prefilling is None else self.sequences[:-1]

    @property
    def can_prefill(self) -> bool:
        """True if another sequence can start to be prefilled."""
        return self.prefilling is None and len(self.sequences) < self._engine.max_batch

    def index(self, sequence: Sequence) -> int:
        """Returns the slot of a sequence."""
        return self.sequences.index(sequence)

    def add(self, sequence: Sequence) -> None:
        """Gives a sequence the next slot, which is emptied."""
        self._engine.reset(len(self.sequences))
        self.sequences.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Frees the slot of a sequence. The last decoding one moves into it; the prefilling one closes up."""
        slot = self.sequences.index(sequence)
        for source in (len(self.decoding) - 1, len(self.sequences) - 1):
            if source > slot:
                self._engine.move(source, slot)
                self.sequences[slot] = self.sequences[source]
                slot = source
        self._engine.reset(slot)
        self.sequences.pop()
