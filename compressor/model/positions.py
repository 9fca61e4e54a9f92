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
                at_BT = self._places(start, hidden_BTD.shape[1])
                cos, sin = self._rotaries[key[2]](torch.empty(0, dtype=hidden_BTD.dtype), at_BT)
                self._rotations[key] = cos.to(key[3]), sin.to(key[3])
        cos, sin = self._rotations[key]
        return (cos, sin) if rotated else (torch.ones_like(cos), torch.zeros_like(sin))

    def rotated(self, layer: int) -> int:
        """Returns how many channels of a head, the first ones, are rotated; pairs are half of them apart."""
        turns = self._kinds[layer][0]
        return self.rotation(layer, torch.empty(1, 1, 0))[0].shape[-1] if turns else 0

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
                seen = self._visible(start, length, window)
                hidden = torch.zeros(seen.shape, dtype=hidden_BTD.dtype)
                lowest = torch.finfo(hidden.dtype).min
                self._masks[key] = hidden.masked_fill(~seen, lowest)[:, None].to(key[3])
        return self._masks[key]

    def _places(self, start: int, length: int) -> torch.Tensor:
        """Returns the positions of tokens, [1 or B, T]."""
        return torch.arange(start, start + length)[None]

    def _visible(self, start: int, length: int, window: int) -> torch.Tensor:
        """Tells which tokens [2] a token [1] sees, [1 or B, T, start + T]; a window of 0 is none."""
        seen = torch.ones(1, length, start + length, dtype=torch.bool).tril(start)
        return seen.triu(start + 1 - window) if window else seen


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
        self._skips_masks, self._rotations, self._masks = False, {}, {}

    def _places(self, _start: int, _length: int) -> torch.Tensor:
        return self._at

    def _visible(self, _start: int, _length: int, window: int) -> torch.Tensor:
        near = self._at[:, :, None] - self._at[:, None, :] < window
        return self._seen & near if window else self._seen
