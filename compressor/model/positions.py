"""Rotary tables and attention masks, by layer and by the length of windows."""

from __future__ import annotations

from typing import Any

import torch

from lathe.compressor.model.checkpoint import Checkpoint

Rotation = tuple[torch.Tensor, torch.Tensor]


class Positions:
    """Rotary tables and attention masks of one exported model, cached per length.

    `model` has no weights; its config is complete but for what layers differ in, which the source has.
    """

    def __init__(self, source: Checkpoint, model: Any) -> None:
        from lathe.artefact.modeling.modeling_lathe_llama import rotary

        config, layers = source.config, range(source.shape.num_layers)
        rotated, windows = config.get("no_rope_layers"), config.get("windows")
        self._kinds = [(not rotated or bool(rotated[i]), int(windows[i]) if windows else 0) for i in layers]
        usual = model.config.rope_parameters
        others = config.get("window_rope_parameters") or usual
        with torch.inference_mode(False):  # some kinds change their frequencies as contexts grow
            self._rotaries = [rotary(model.config, parameters) for parameters in (usual, others)]
        self._skips_masks = model.config._attn_implementation == "sdpa"
        self._rotations: dict[tuple[int, int, bool, torch.device], Rotation] = {}
        self._masks: dict[tuple[int, int, int, torch.device], torch.Tensor] = {}

    @property
    def alike(self) -> bool:
        """True if positions are the same for all layers."""
        return len(set(self._kinds)) == 1

    def rotation(self, layer: int, hidden_BTD: torch.Tensor, start: int = 0) -> Rotation:
        """Returns cosines and sines [1, T, rotated part of H] from a position on.

        They are those of no rotation where the layer has no positions. They outlive the call, which may be in
        inference mode; a later one may need gradients through them.
        """
        rotated, window = self._kinds[layer]
        key = start, start + hidden_BTD.shape[1], bool(window), hidden_BTD.device
        if key not in self._rotations:
            with torch.inference_mode(False):
                at = torch.arange(*key[:2])[None]
                cos, sin = self._rotaries[key[2]](torch.empty(0, dtype=hidden_BTD.dtype), at)
                self._rotations[key] = cos.to(key[3]), sin.to(key[3])
        cos, sin = self._rotations[key]
        return (cos, sin) if rotated else (torch.ones_like(cos), torch.zeros_like(sin))

    def mask(self, layer: int, hidden_BTD: torch.Tensor, start: int = 0) -> torch.Tensor | None:
        """Returns a mask [1, 1, T, start + T] to add to scores; T is 1 where there is a start.

        None where attention itself is causal and sees all earlier tokens.
        """
        length, window = hidden_BTD.shape[1], self._kinds[layer][1]
        if window >= start + length:
            window = 0
        if self._skips_masks and not window:
            return None
        key = start, length, window, hidden_BTD.device
        if key not in self._masks:
            with torch.inference_mode(False):
                seen = torch.ones(length, start + length, dtype=torch.bool).tril(start)
                seen = seen.triu(start + 1 - window) if window else seen
                hidden = torch.zeros(length, start + length, dtype=hidden_BTD.dtype)
                lowest = torch.finfo(hidden.dtype).min
                self._masks[key] = hidden.masked_fill(~seen, lowest)[None, None].to(key[3])
        return self._masks[key]


class PackedPositions(Positions):
    """Of one batch whose rows hold several texts: tokens' own positions, and who sees whom."""

    def __init__(self, usual: Positions, at_BT: torch.Tensor, seen_BTT: torch.Tensor) -> None:
        """Takes what layers differ in from the usual positions.

        Args:
            usual: The positions of a window of tokens that follow each other.
            at_BT: The position of each token.
            seen_BTT: Whether a token [1] sees another one [2]; windows of layers are narrower still.
        """
        self.__dict__.update(vars(usual))
        self._at, self._seen = at_BT, seen_BTT
        self._rotations, self._masks = {}, {}

    def rotation(self, layer: int, hidden_BTD: torch.Tensor, start: int = 0) -> Rotation:
        rotated, window = self._kinds[layer]
        key = start, hidden_BTD.shape[1], bool(window), hidden_BTD.device
        if key not in self._rotations:
            empty = torch.empty(0, dtype=hidden_BTD.dtype)
            cos, sin = self._rotaries[key[2]](empty, self._at)
            self._rotations[key] = cos.to(key[3]), sin.to(key[3])
        cos, sin = self._rotations[key]
        return (cos, sin) if rotated else (torch.ones_like(cos), torch.zeros_like(sin))

    def mask(self, layer: int, hidden_BTD: torch.Tensor, start: int = 0) -> torch.Tensor:
        window = self._kinds[layer][1]
        key = start, hidden_BTD.shape[1], window, hidden_BTD.device
        if key not in self._masks:
            seen = self._seen
            if window:
                seen = seen & (self._at[:, :, None] - self._at[:, None, :] < window)
            lowest = torch.finfo(hidden_BTD.dtype).min
            hidden = torch.zeros(seen.shape, dtype=hidden_BTD.dtype).masked_fill(~seen, lowest)
            self._masks[key] = hidden[:, None].to(key[3])
        return self._masks[key]
