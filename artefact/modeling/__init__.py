"""The uneven models, for transformers and for vLLM.

Their files are also shipped inside artefacts: those for transformers in every checkpoint, those for vLLM in
the plugin beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from lathe.artefact.modeling.configuration_lathe_gemma import LatheGemmaConfig
from lathe.artefact.modeling.configuration_lathe_gpt_oss import LatheGptOssConfig
from lathe.artefact.modeling.configuration_lathe_llama import LatheLlamaConfig
from lathe.artefact.modeling.configuration_lathe_moe import LatheMoeConfig
from lathe.artefact.modeling.configuration_lathe_neox import LatheNeoxConfig
from lathe.artefact.modeling.configuration_lathe_opt import LatheOptConfig
from lathe.artefact.modeling.modeling_lathe_gemma import LatheGemmaForCausalLM, LatheGemmaModel
from lathe.artefact.modeling.modeling_lathe_gpt_oss import LatheGptOssForCausalLM, LatheGptOssModel
from lathe.artefact.modeling.modeling_lathe_llama import LatheLlamaForCausalLM, LatheLlamaModel
from lathe.artefact.modeling.modeling_lathe_moe import LatheMoeForCausalLM, LatheMoeModel
from lathe.artefact.modeling.modeling_lathe_neox import LatheNeoxForCausalLM, LatheNeoxModel
from lathe.artefact.modeling.modeling_lathe_opt import LatheOptForCausalLM, LatheOptModel

__all__ = ["AUTO_MAPS", "LatheLlamaConfig", "LatheLlamaForCausalLM", "new_model", "register"]

_CLASSES: dict[str, tuple[Any, Any, Any]] = {
    "lathe_llama": (LatheLlamaConfig, LatheLlamaModel, LatheLlamaForCausalLM),
    "lathe_gemma": (LatheGemmaConfig, LatheGemmaModel, LatheGemmaForCausalLM),
    "lathe_gpt_oss": (LatheGptOssConfig, LatheGptOssModel, LatheGptOssForCausalLM),
    "lathe_moe": (LatheMoeConfig, LatheMoeModel, LatheMoeForCausalLM),
    "lathe_neox": (LatheNeoxConfig, LatheNeoxModel, LatheNeoxForCausalLM),
    "lathe_opt": (LatheOptConfig, LatheOptModel, LatheOptForCausalLM),
}
AUTO_MAPS = {
    name: {
        auto: f"{part}_{name}.{classes[index].__name__}"
        for index, (auto, part) in enumerate(
            (("AutoConfig", "configuration"), ("AutoModel", "modeling"), ("AutoModelForCausalLM", "modeling"))
        )
    }
    for name, classes in _CLASSES.items()
}
_NOT_SETTINGS = ("model_type", "architectures", "auto_map")


def new_model(model_type: str, config: Mapping[str, Any]) -> Any:
    """Builds one of our models without weights, on the meta device, from a family's config document."""
    config_class, _, model_class = _CLASSES[model_type]
    settings = {key: value for key, value in config.items() if key not in _NOT_SETTINGS}
    with torch.device("meta"):
        return model_class._from_config(config_class(**settings)).eval()


def register() -> None:
    """Makes transformers' Auto classes load our checkpoints without `trust_remote_code`.

    It may be called again. Models saved by `save_pretrained` take their files along.
    """
    for name, (config, model, causal) in _CLASSES.items():
        AutoConfig.register(name, config, exist_ok=True)
        AutoModel.register(config, model, exist_ok=True)
        AutoModelForCausalLM.register(config, causal, exist_ok=True)
        config.register_for_auto_class()
        model.register_for_auto_class("AutoModel")
        causal.register_for_auto_class("AutoModelForCausalLM")
