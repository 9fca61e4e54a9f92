"""The format in which a family of models writes tool calls, as data for the parser and the grammar."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto


class Slot(Enum):
    """A variable part of a call."""

    NAME = auto()
    ID = auto()


class Mark(str):
    """Text that models have a token for, perhaps a special one; it is written exactly so."""

    __slots__ = ()


Piece = str | Slot
"""A mark, a slot, or JSON text, whose whitespace is free."""
Pieces = tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class ToolCallFormat:
    """A call is `head`, the arguments as a JSON object, and one of `tails`.

    Attributes:
        name: its name here.
        vllm_parser: the name of vLLM's parser of the same format.
        fits: whether a rendered chat, with tools and a call, is written in this format.
        opening: stands in front of a call.
        head: from there, or from `more`, to the arguments.
        tails: what may follow them; the first is the usual one.
        before: between the opening and the first head.
        more: between two calls behind one opening; None where each call has its own opening.
        closing: ends calls that share an opening.
        bare: whether an answer may begin with a call that has no opening.
        several: whether an answer may have more than one call.
        nine_char_ids: whether ids are nine letters and digits.
    """

    name: str
    vllm_parser: str
    fits: Callable[[str], bool]
    opening: Mark
    head: Pieces
    tails: tuple[Pieces, ...]
    before: Pieces = ()
    more: Pieces | None = None
    closing: Pieces = ()
    bare: bool = False
    several: bool = True
    nine_char_ids: bool = False

    @property
    def marks(self) -> frozenset[Mark]:
        pieces = (self.opening, *self.head, *self.before, *self.closing, *(self.more or ()))
        pieces += tuple(piece for tail in self.tails for piece in tail)
        return frozenset(piece for piece in pieces if isinstance(piece, Mark))

    def new_id(self) -> str:
        """Returns an id for a call that the model gave none."""
        return secrets.token_hex(5)[:9] if self.nine_char_ids else f"call_{secrets.token_hex(12)}"

    def written_head(self, name: str) -> str:
        """Returns the beginning of a call of a tool, behind its opening."""
        return _written(self.head, name)

    def write(self, calls: list[tuple[str, str]]) -> str:
        """Returns calls, (name, arguments) each, as the model would have written them."""
        texts = [_written(self.head, name) + arguments + _written(self.tails[0]) for name, arguments in calls]
        before, closing = self.opening + _written(self.before), _written(self.closing)
        if self.bare:
            return "\n".join(texts)
        if self.more is None:
            return "\n".join(before + text + closing for text in texts)
        return before + _written(self.more).join(texts) + closing


def _written(pieces: Pieces, name: str = "") -> str:
    slots = {Slot.NAME: name, Slot.ID: "0" * 9}
    return "".join(slots[piece] if isinstance(piece, Slot) else piece for piece in pieces)
