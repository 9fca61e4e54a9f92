"""What the runners of all engines check of a call: the slot, and the tokens."""

from __future__ import annotations

import numpy as np

from lathe.artefact.errors import UserError


def check_slot(slot: int, slots: int) -> None:
    """Checks that there is a slot.

    Raises:
        UserError: There is none with this number.
    """
    if not 0 <= slot < slots:
        raise UserError(f"there is no slot {slot}: the runner has {slots}")


def checked_tokens(tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    """Returns tokens as an array [S] of integers.

    Raises:
        UserError: They are no row of integers, or one is outside the vocabulary.
    """
    tokens = np.asarray(tokens)
    if tokens.ndim != 1 or not tokens.size or tokens.dtype.kind not in "iu":
        raise UserError(f"tokens must be a non-empty row of integers, not {tokens.dtype} {tokens.shape}")
    outside = [int(end) for end in (tokens.min(), tokens.max()) if not 0 <= end < vocab_size]
    if outside:
        raise UserError(f"token {outside[0]} is outside the vocabulary of {vocab_size}")
    return tokens
