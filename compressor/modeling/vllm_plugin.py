"""What vLLM calls when it starts (entry-point group `vllm.general_plugins`): it makes our models known.

This file is shipped inside artefacts and imports nothing of Lathe but its neighbours.
"""

from __future__ import annotations

from transformers import AutoConfig

from .configuration_lathe_llama import LatheLlamaConfig


def register() -> None:
    """Make vLLM serve our checkpoints without `--trust-remote-code`. May be called again.

    The model itself is imported by vLLM when a checkpoint asks for it.
    """
    from vllm import ModelRegistry

    AutoConfig.register("lathe_llama", LatheLlamaConfig, exist_ok=True)
    if "LatheLlamaForCausalLM" not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(
            "LatheLlamaForCausalLM", f"{__package__}.vllm_lathe_llama:LatheLlamaForCausalLM"
        )
