"""Plain PyTorch of a quantized checkpoint: what vLLM is compared with, from the bytes of its files.

The codes are read by the compressed-tensors library; inputs of int8 matrices are rounded token by token.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from lathe.artefact.modeling import register


def values(directory: Path) -> dict[str, torch.Tensor]:
    """Returns the tensors of a checkpoint as floats, by their usual names."""
    stored, found = load_file(directory / "model.safetensors"), {}
    for name, tensor in stored.items():
        if name.endswith("_packed"):
            matrix = name.removesuffix("_packed")
            codes = unpack_from_int32(tensor, 4, torch.Size(stored[f"{matrix}_shape"].tolist()))
            found[matrix] = codes.float() * stored[f"{matrix}_scale"].float().repeat_interleave(32, 1)
        elif tensor.dtype == torch.int8:
            found[name] = tensor.float() * stored[f"{name}_scale"]
        elif not name.endswith(("_scale", "_shape")):
            found[name] = tensor.float()
    return found


def in_int8(directory: Path) -> set[str]:
    """Returns the modules whose weights are stored in int8."""
    stored = load_file(directory / "model.safetensors")
    return {name.removesuffix(".weight") for name, tensor in stored.items() if tensor.dtype == torch.int8}


def as_int8(inputs: torch.Tensor) -> torch.Tensor:
    """Rounds inputs to int8 with a scale for each token, as vLLM does."""
    scale = inputs.abs().amax(-1, keepdim=True).clamp(min=1e-10) / 127
    return (inputs / scale).round().clamp(-128, 127) * scale


def reference(directory: Path, int8: bool = True) -> nn.Module:
    """Returns our PyTorch model in float32; int8: it rounds the inputs of matrices in int8."""
    model = _model(directory)
    for name in in_int8(directory) if int8 else ():
        model.get_submodule(name).register_forward_pre_hook(lambda _, inputs: (as_int8(inputs[0]),))
    return model


def half_reference(directory: Path, dtype: torch.dtype) -> nn.Module:
    """Returns our PyTorch model in the served type; layers' products are in float32 of the stored values."""
    model, found, eight = _model(directory), values(directory), in_int8(directory)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and ".layers." in name:
            own = _product(found[f"{name}.weight"], module.bias, name in eight, dtype)
            module.forward = own  # type: ignore[assignment, method-assign]
    return model.to(dtype)


def _model(directory: Path) -> nn.Module:
    register()
    config = AutoConfig.from_pretrained(directory)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model: Any = AutoModelForCausalLM.from_config(config).float().eval()
    missing, unexpected = model.load_state_dict(values(directory), strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}
    model.tie_weights()
    return model


def _product(
    weight: torch.Tensor, bias: torch.Tensor | None, eight: bool, dtype: torch.dtype
) -> Callable[[torch.Tensor], torch.Tensor]:
    def forward(x: torch.Tensor) -> torch.Tensor:
        wide = as_int8(x.float()) if eight else x.float()
        return nn.functional.linear(wide, weight, None if bias is None else bias.float()).to(dtype)

    return forward
