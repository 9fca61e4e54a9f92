"""Configuration of an uneven gpt-oss: widths and experts per layer, blocks dropped.

This file is shipped inside checkpoints and imports nothing of Lathe but its neighbour.
"""

from __future__ import annotations

from huggingface_hub.dataclasses import strict

from .configuration_lathe_moe import LatheMoeConfig


@strict
class LatheGptOssConfig(LatheMoeConfig):
    """A gpt-oss in the settings of an uneven mixture of experts.

    Every query head has an attention sink. The router and the experts have biases. The experts' gates are
    clamped to `swiglu_limit`, and `swiglu_alpha` is the slope of their sigmoid.
    """

    model_type = "lathe_gpt_oss"

    attention_bias: bool = True
    mlp_bias: bool = True
    attention_sinks: bool = True
    router_bias: bool = True
    swiglu_alpha: float = 1.702
    swiglu_limit: float = 7.0


__all__ = ["LatheGptOssConfig"]
