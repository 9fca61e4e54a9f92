"""What vLLM calls when it starts (entry-point group `vllm.general_plugins`): it makes our models known.

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
"""Of vLLM, whose parts that we use were found to be there."""
CPU_HEAD_SIZES = (32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""Those for which the attention kernel of vLLM 0.32's CPU build was found to work."""


def refusal(version: str) -> str | None:
    """Why a vLLM of this version does not serve our models, which use parts of it that others have elsewhere
    or not at all; None where it does.
    """
    release = re.match(r"\d+\.\d+", version)
    if release is not None and release[0] in VERSIONS:
        return None
    return f"Lathe serves with vLLM {' and '.join(VERSIONS)}, and this vLLM is {version}"


def _refusing(config: Any, why: str) -> Any:
    """A class of configs that cannot be made."""

    def refuse(_self: Any, **_: Any) -> None:
        raise ValueError(why)

    return type(config.__name__, (config,), {"__init__": refuse})


def register() -> None:
    """Make vLLM serve our checkpoints without `--trust-remote-code`. May be called again.

    The model itself is imported by vLLM when a checkpoint asks for it. A vLLM that it was not made for still
    serves other models: only a checkpoint of ours is refused, as soon as vLLM reads its config.
    """
    from vllm import ModelRegistry, __version__

    why = refusal(__version__)
    for config in CONFIGS:
        known = config if why is None else _refusing(config, why)
        AutoConfig.register(config.model_type, known, exist_ok=True)
        name = config.__name__.replace("Config", "ForCausalLM")
        if name not in ModelRegistry.get_supported_archs():
            ModelRegistry.register_model(name, f"{__package__}.vllm_{config.model_type}:{name}")
