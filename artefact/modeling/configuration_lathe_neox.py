"""Configuration of an uneven GPT-NeoX: widths per layer, blocks dropped.

This file is shipped inside checkpoints and imports nothing of Lathe but its neighbour.
"""

from __future__ import annotations

from huggingface_hub.dataclasses import strict

from .configuration_lathe_llama import LatheLlamaConfig


@strict
class LatheNeoxConfig(LatheLlamaConfig):
    """A GPT-NeoX in the settings of an uneven Llama: LayerNorms (`rms_norm_eps` is theirs), FFNs without a
    gate, and with `parallel_blocks` both blocks of a layer read what comes into it.
    """

    model_type = "lathe_neox"

    hidden_act: str = "gelu"
    norm_bias: bool = True
    ffn_gate: bool = False
    parallel_blocks: bool = True


__all__ = ["LatheNeoxConfig"]
