"""The uneven model, for transformers and for vLLM. Its files are also shipped inside artefacts: the first two
in every checkpoint, vLLM's in the plugin beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from compressor.modeling.configuration_lathe_llama import LatheLlamaConfig
from compressor.modeling.modeling_lathe_llama import LatheLlamaForCausalLM, LatheLlamaModel

__all__ = [
    "AUTO_MAPS", "PLUGIN_FILES", "SHIPPED_FILES", "LatheLlamaConfig", "LatheLlamaForCausalLM", "new_model",
    "register",
]  # fmt: skip

_HERE = Path(__file__).parent
SHIPPED_FILES = {
    "lathe_llama": (_HERE / "configuration_lathe_llama.py", _HERE / "modeling_lathe_llama.py"),
}
PLUGIN_FILES = {
    "lathe_llama": (
        _HERE / "configuration_lathe_llama.py", _HERE / "vllm_lathe_llama.py", _HERE / "vllm_plugin.py",
    ),
}  # fmt: skip
AUTO_MAPS = {
    "lathe_llama": {
        "AutoConfig": "configuration_lathe_llama.LatheLlamaConfig",
        "AutoModel": "modeling_lathe_llama.LatheLlamaModel",
        "AutoModelForCausalLM": "modeling_lathe_llama.LatheLlamaForCausalLM",
    },
}
_NOT_SETTINGS = ("model_type", "architectures", "auto_map")
_CLASSES = {"lathe_llama": (LatheLlamaConfig, LatheLlamaForCausalLM)}


def new_model(model_type: str, config: Mapping[str, Any]) -> Any:
    """A model of ours without weights (on the meta device), from a config document as families read it."""
    config_class, model_class = _CLASSES[model_type]
    settings = {key: value for key, value in config.items() if key not in _NOT_SETTINGS}
    with torch.device("meta"):
        return model_class._from_config(config_class(**settings), attn_implementation="sdpa").eval()


def register() -> None:
    """Make transformers' Auto classes load our checkpoints without `trust_remote_code`.

    May be called again. Models saved by `save_pretrained` take the two files along.
    """
    AutoConfig.register("lathe_llama", LatheLlamaConfig, exist_ok=True)
    AutoModel.register(LatheLlamaConfig, LatheLlamaModel, exist_ok=True)
    AutoModelForCausalLM.register(LatheLlamaConfig, LatheLlamaForCausalLM, exist_ok=True)
    LatheLlamaConfig.register_for_auto_class()
    LatheLlamaModel.register_for_auto_class("AutoModel")
    LatheLlamaForCausalLM.register_for_auto_class("AutoModelForCausalLM")
