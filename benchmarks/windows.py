"""Windows to score on, from all over a text."""

from __future__ import annotations

import torch

from lathe.artefact.errors import UserError
from lathe.compressor.calibration import token_windows
from lathe.compressor.calibration.tokens import evenly_spaced
from lathe.compressor.model.checkpoint import Checkpoint


def text_windows(source: Checkpoint, text: str, length: int, count: int) -> torch.Tensor:
    """Returns windows from all over a text, [count, length].

    Raises:
        UserError: it cannot be read, or is shorter than one.
    """
    windows = evenly_spaced(token_windows(source, text, length, tokens=count * length), count)
    if not len(windows):
        raise UserError(f"{text} is shorter than one window of {length} tokens", "Give more text.")
    return windows
