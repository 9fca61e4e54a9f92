"""Where tokens go among experts, and what each expert would add, of a sample of tokens."""

from __future__ import annotations

from typing import Any, Self

import torch

from lathe.compressor.model.block_runner import BlockRunner, Weights
from lathe.compressor.model.names import DOWN_PROJ, SHARE_PROJ

TOKENS = 2048
"""That are kept at most; memory grows with them and with the square of the number of experts."""
_ROWS = 64


class RouterSample:
    """Of a sample of `tokens`: logits of the router, and products of what all experts would add, each by
    itself. Nothing where an FFN is one. tokens: of all that are added together.
    """

    def __init__(self, runner: BlockRunner, weights: Weights, tokens: int) -> None:
        self._runner, self._weights = runner, weights
        self._stride = -(-tokens // TOKENS) | 1  # odd, so that all places in a window are met
        self._first = 0
        self._logits, self._products = list[torch.Tensor](), list[torch.Tensor]()
        if runner.shape.experts:
            self._module = runner.ffn_module(weights)
            self._down_DEF = weights[f"{DOWN_PROJ}.weight"].unflatten(1, (runner.shape.experts, -1))
            shares = weights.get(f"{SHARE_PROJ}.weight")
            self._bias_ED = torch.zeros(()) if shares is None else shares.T

    def add_batch(self, state: torch.Tensor) -> None:
        """state: [B, T, ...], what the block comes after."""
        if not self._runner.shape.experts:
            return
        tokens = self._runner.ffn_input(self._weights, state).flatten(0, -2)
        sample = tokens[self._first :: self._stride]
        self._first = (self._first - len(tokens)) % self._stride
        for part_SD in sample.split(_ROWS):
            inner_SEF = self._module.inner(part_SD).unflatten(-1, self._down_DEF.shape[1:])
            added_SED = torch.einsum("sef,def->sed", inner_SEF, self._down_DEF) + self._bias_ED
            self._logits.append(self._module.router(part_SD))
            self._products.append(added_SED @ added_SED.mT)

    def add(self, other: Self) -> None:
        """What another one has sampled."""
        self._logits += other._logits
        self._products += other._products

    def __getstate__(self) -> dict[str, Any]:
        """What was sampled travels, what samples does not."""
        return {name: vars(self)[name] for name in ("_logits", "_products")}

    def logits(self) -> torch.Tensor:
        """[S, E]."""
        return _together(self._logits)

    def products(self) -> torch.Tensor:
        """[S, E, E]."""
        return _together(self._products)


def _together(parts: list[torch.Tensor]) -> torch.Tensor:
    """Nothing of no part."""
    return torch.cat(parts) if parts else torch.empty(0)
