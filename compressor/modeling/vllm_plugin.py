"""What vLLM calls when it starts (entry-point group `vllm.general_plugins`): it makes our models known.

This file is shipped inside artefacts and imports nothing of Lathe but its neighbours.
"""

from __future__ import annotations

from transformers import AutoConfig

from .configuration_lathe_gemma import LatheGemmaConfig
from .configuration_lathe_gpt_oss import LatheGptOssConfig
from .configuration_lathe_llama import LatheLlamaConfig
from .configuration_lathe_moe import LatheMoeConfig
from .configuration_lathe_neox import LatheNeoxConfig
from .configuration_lathe_opt import LatheOptConfig

CONFIGS = (
    LatheLlamaConfig, LatheGemmaConfig, LatheGptOssConfig, LatheMoeConfig, LatheNeoxConfig, LatheOptConfig,
)  # fmt: skip
CPU_HEAD_SIZES = (32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""Those for which the attention kernel of vLLM 0.32's CPU build was found to work."""


def register() -> None:
    """Make vLLM serve our checkpoints without `--trust-remote-code`. May be called again.

    The model itself is imported by vLLM when a checkpoint asks for it.
    """
    from vllm import ModelRegistry

    for config in CONFIGS:
        AutoConfig.register(config.model_type, config, exist_ok=True)
        name = config.__name__.replace("Config", "ForCausalLM")
        if name not in ModelRegistry.get_supported_archs():
            ModelRegistry.register_model(name, f"{__package__}.vllm_{config.model_type}:{name}")
