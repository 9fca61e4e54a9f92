"""Routing and expert outputs on a sample of tokens."""

from __future__ import annotations

from typing import Any, Self

import torch

from lathe.compressor.model.block_runner import BlockRunner, Weights
from lathe.compressor.model.names import DOWN_PROJ, SHARE_PROJ

TOKENS = 2048
"""The most tokens in a sample; memory grows with them and with the square of the number of experts."""
_ROWS = 64


class RouterSample:
    """Samples router logits, and inner products of the outputs of all experts, each expert run by itself.

    Without experts it stays empty.

    Args:
        runner: Runs the layer's blocks.
        weights: The layer's dense weights.
        tokens: The tokens of all samples that will be added together.
    """

    def __init__(self, runner: BlockRunner, weights: Weights, tokens: int) -> None:
        self._runner, self._weights = runner, weights
        self._stride = -(-tokens // TOKENS) | 1  # odd, so that all positions in a window are met
        self._first = 0
        self._logits, self._products = list[torch.Tensor](), list[torch.Tensor]()
        if runner.shape.experts:
            self._module = runner.ffn_module(weights)
            self._down_DEF = weights[f"{DOWN_PROJ}.weight"].unflatten(1, (runner.shape.experts, -1))
            shares = weights.get(f"{SHARE_PROJ}.weight")
            self._bias_ED = torch.zeros(()) if shares is None else shares.T

    def add_batch(self, state: torch.Tensor) -> None:
        """Samples from the states after the attention block, [B, T, ...]."""
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
        """Adds what another instance has sampled."""
        self._logits += other._logits
        self._products += other._products

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out everything but the sample when the instance is pickled."""
        return {name: vars(self)[name] for name in ("_logits", "_products")}

    def logits(self) -> torch.Tensor:
        """Returns the router's logits, [S, E]."""
        return _concatenated(self._logits)

    def products(self) -> torch.Tensor:
        """Returns the inner products of the experts' outputs, [S, E, E]."""
        return _concatenated(self._products)


def _concatenated(parts: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat(parts) if parts else torch.empty(0)
