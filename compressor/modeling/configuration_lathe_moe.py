"""Configuration of an uneven mixture of experts: widths per layer, blocks dropped.

This file is shipped inside checkpoints and imports nothing of Lathe but its neighbour.
"""

from __future__ import annotations

from huggingface_hub.dataclasses import strict

from .configuration_lathe_llama import LatheLlamaConfig


@strict
class LatheMoeConfig(LatheLlamaConfig):
    """A mixture of experts in the settings of an uneven Llama: every FFN is `experts` of them, each as wide
    as the layer's `intermediate_size`, of which a token uses `experts_per_token`; with `normalised_shares`
    their shares add up to 1."""

    model_type = "lathe_moe"

    experts: int = 8
    experts_per_token: int = 2
    normalised_shares: bool = True


__all__ = ["LatheMoeConfig"]
