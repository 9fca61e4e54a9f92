"""Configuration of an uneven Gemma: widths per layer, blocks dropped.

This file is shipped inside checkpoints and imports nothing of Lathe but its neighbour.
"""

from __future__ import annotations

from huggingface_hub.dataclasses import strict

from .configuration_lathe_llama import LatheLlamaConfig


@strict
class LatheGemmaConfig(LatheLlamaConfig):
    """A Gemma in the settings of an uneven Llama.

    It has norms before and after each block, whose weights are stored less 1 (`norm_offset`). Embeddings are
    multiplied by the square root of the hidden size. `query_pre_attn_scalar` takes the place of the head size
    in the scale of scores. `attn_logit_softcapping` and `final_logit_softcapping` are bounds, or null.
    """

    model_type = "lathe_gemma"

    hidden_act: str = "gelu_pytorch_tanh"
    norm_after: bool = True
    norm_offset: float = 1.0
    scaled_embedding: bool = True
    query_pre_attn_scalar: int | float = 256
    attn_logit_softcapping: float | None = None
    final_logit_softcapping: float | None = None


__all__ = ["LatheGemmaConfig"]
