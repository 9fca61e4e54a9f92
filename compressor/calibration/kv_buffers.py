"""Keys and values of a text while it is written, in buffers of its final length.

transformers' DynamicCache copies all of them for every token.
"""

from __future__ import annotations

import torch


class KVBuffers:
    """The KV cache of one layer, as its attention calls it.

    Args:
        length: The tokens of the finished text.
    """

    def __init__(self, length: int) -> None:
        self._length, self._seen = length, 0
        self._buffers: list[torch.Tensor] = []

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, *_args: object, **_kwargs: object
    ) -> list[torch.Tensor]:
        """Adds tokens [B, heads, T, H]; returns the keys and values of all tokens so far."""
        if not self._buffers:
            self._buffers = [self._empty(keys), self._empty(values)]
        start, self._seen = self._seen, self._seen + keys.shape[-2]
        for buffer, states in zip(self._buffers, (keys, values), strict=True):
            buffer[..., start : self._seen, :] = states
        return [buffer[..., : self._seen, :] for buffer in self._buffers]

    def _empty(self, states: torch.Tensor) -> torch.Tensor:
        *rows, _, size = states.shape
        return states.new_empty(*rows, self._length, size)
