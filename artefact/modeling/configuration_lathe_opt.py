"""Configuration of an uneven OPT: widths per layer, blocks dropped.

This file is shipped inside checkpoints and imports nothing of Lathe but its neighbour.
"""

from __future__ import annotations

from huggingface_hub.dataclasses import strict

from .configuration_lathe_llama import LatheLlamaConfig


@strict
class LatheOptConfig(LatheLlamaConfig):
    """An OPT in the settings of an uneven Llama.

    It has LayerNorms, whose epsilon is `rms_norm_eps`, `learned_positions` in place of rotary ones, and FFNs
    without a gate.
    """

    model_type = "lathe_opt"

    hidden_act: str = "relu"
    learned_positions: int = 2048
    norm_bias: bool = True
    ffn_gate: bool = False

    def has_positions(self, _layer: int) -> bool:
        """Returns False: no layer rotates queries and keys."""
        return False


__all__ = ["LatheOptConfig"]
