"""The plugin that registers our models when vLLM starts (entry-point group `vllm.general_plugins`).

This file is shipped inside artefacts and imports nothing of Lathe but its neighbours.
"""

from __future__ import annotations

import re
from typing import Any

from transformers import AutoConfig

from .configuration_lathe_gemma import LatheGemmaConfig
from .configuration_lathe_gpt_oss import LatheGptOssConfig
from .configuration_lathe_llama import LatheLlamaConfig
from .configuration_lathe_moe import LatheMoeConfig
from .configuration_lathe_neox import LatheNeoxConfig
from .configuration_lathe_opt import LatheOptConfig

CONFIGS = (
    LatheLlamaConfig,
    LatheGemmaConfig,
    LatheGptOssConfig,
    LatheMoeConfig,
    LatheNeoxConfig,
    LatheOptConfig,
)
VERSIONS = ("0.32", "0.33")
"""The versions of vLLM that were found to have the parts that we use."""
CPU_HEAD_SIZES = (32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""The head sizes with which the attention kernel of vLLM 0.32's CPU build was found to work."""


def refusal(version: str) -> str | None:
    """Returns the reason why this version of vLLM does not serve our models, or None if it does.

    The models use parts of vLLM that other versions have elsewhere or not at all.
    """
    release = re.match(r"\d+\.\d+", version)
    if release is not None and release[0] in VERSIONS:
        return None
    return f"Lathe serves with vLLM {' and '.join(VERSIONS)}, and this vLLM is {version}"


def _refusing(config: Any, why: str) -> Any:
    """Returns a class of configs that raises ValueError when one is made."""

    def refuse(_self: Any, **_: Any) -> None:
        raise ValueError(why)

    return type(config.__name__, (config,), {"__init__": refuse})


def register() -> None:
    """Makes vLLM serve our checkpoints without `--trust-remote-code`.

    It may be called again. vLLM imports the model itself when a checkpoint needs it. A version of vLLM that
    is not supported still serves other models: only our checkpoints are refused, as soon as vLLM reads their
    config.
    """
    from vllm import ModelRegistry, __version__

    why = refusal(__version__)
    for config in CONFIGS:
        known = config if why is None else _refusing(config, why)
        AutoConfig.register(config.model_type, known, exist_ok=True)
        name = config.__name__.replace("Config", "ForCausalLM")
        if name not in ModelRegistry.get_supported_archs():
            ModelRegistry.register_model(name, f"{__package__}.vllm_{config.model_type}:{name}")
