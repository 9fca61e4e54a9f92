"""The uneven model, for transformers and for vLLM. Its files are also shipped inside artefacts: the first two
in every checkpoint, vLLM's in the plugin beside it."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from compressor.modeling.configuration_lathe_llama import LatheLlamaConfig
from compressor.modeling.modeling_lathe_llama import LatheLlamaForCausalLM, LatheLlamaModel

__all__ = [
    "AUTO_MAPS", "PLUGIN_FILES", "SHIPPED_FILES", "LatheLlamaConfig", "LatheLlamaForCausalLM", "register",
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
