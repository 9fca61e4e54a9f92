"""Configuration of an uneven GPT-NeoX: widths per layer, blocks dropped.

This file is shipped inside checkpoints and imports nothing of Lathe but its neighbour.
"""

from __future__ import annotations

from huggingface_hub.dataclasses import strict

from .configuration_lathe_llama import LatheLlamaConfig


@strict
class LatheNeoxConfig(LatheLlamaConfig):
    """A GPT-NeoX in the settings of an uneven Llama.

    It has LayerNorms, whose epsilon is `rms_norm_eps`, and FFNs without a gate. With `parallel_blocks` both
    blocks of a layer read the layer's input.
    """

    model_type = "lathe_neox"

    hidden_act: str = "gelu"
    norm_bias: bool = True
    ffn_gate: bool = False
    parallel_blocks: bool = True


__all__ = ["LatheNeoxConfig"]
