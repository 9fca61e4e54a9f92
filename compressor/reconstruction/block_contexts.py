"""What a block's output projection read when it was measured, kept until the stream has passed the block."""

from __future__ import annotations

import torch

from lathe.artefact.plan import BlockKind
from lathe.compressor.compute.array_store import ArrayLike, ArrayStore
from lathe.compressor.model.block_runner import Weights
from lathe.compressor.model.output_projection import output

_NONE: Weights = {}


class BlockContexts:
    """Inputs of the output projection of the block that was measured last, [B, T, n].

    Args:
        store: Keeps them.
    """

    def __init__(self, store: ArrayStore | None = None) -> None:
        self._store, self._block = store or ArrayStore(), _NONE
        self._rows: ArrayLike | None = None

    def keep(self, block: Weights, windows: int, part: torch.Tensor, x_BTn: torch.Tensor) -> None:
        """Keeps the inputs of a batch; those of another block are let go.

        Args:
            block: The block that was measured.
            windows: The number of windows of the text, B.
            part: The indices of the batch's windows.
            x_BTn: Its inputs.
        """
        if self._rows is None or self._block is not block:
            self._block, self._rows = block, self._store.rows(windows, *x_BTn.shape[1:])
        self._rows[part] = x_BTn

    def take(self, kind: BlockKind, block: Weights) -> ArrayLike | None:
        """Returns and lets go of the inputs; None where the measured block had other inner weights."""
        found = self._rows if self._same(kind, block) else None
        self._block, self._rows = _NONE, None
        return found

    def _same(self, kind: BlockKind, block: Weights) -> bool:
        own = {n: w for n, w in self._block.items() if not n.startswith(f"{output(kind)}.")}
        return bool(own) and all(n in block and torch.equal(w, block[n]) for n, w in own.items())
