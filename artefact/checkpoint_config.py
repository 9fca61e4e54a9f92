"""config.json of a dense checkpoint, and folders that hold something else than a whole float model."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from lathe.artefact.errors import UserError

DEFAULT_CONTEXT = 2048
_ADAPTERS = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
_MERGE = (
    "Merge it first: load the model with peft, `merge_and_unload()`, `save_pretrained`, and give that folder."
)
_ADAPTED = {"base_layer", "lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B"}
"""Parts of the names of tensors that peft gives to adapted layers."""
_QUANTIZED = {
    "qweight": "GPTQ or AWQ",
    "qzeros": "GPTQ or AWQ",
    "g_idx": "GPTQ",
    "absmax": "bitsandbytes",
    "quant_map": "bitsandbytes",
    "nested_absmax": "bitsandbytes",
    "bitsandbytes__nf4": "bitsandbytes",
    "bitsandbytes__fp4": "bitsandbytes",
    "SCB": "bitsandbytes",
    "weight_packed": "compressed-tensors",
    "weight_zero_point": "compressed-tensors",
    "weight_scale": "compressed-tensors or FP8",
    "weight_scale_inv": "FP8",
    "weight_scale_2": "ModelOpt",
    "scales": "GPTQ, AWQ or MLX",
    "W_q": "HQQ",
    "codebooks": "AQLM",
    "_data": "Quanto",
}
"""How a tensor's name ends where a quantizer made it, and whose that is."""
_SIDE_FILES = {
    "quantize_config.json": "GPTQ",
    "quant_config.json": "AWQ",
    "hf_quant_config.json": "ModelOpt",
    "quanto_qmap.json": "Quanto",
}
_FLOAT, _UNPACKED = "gguf", "mxfp4"
"""Methods of checkpoints whose tensors are floats, or are read as floats."""


def read_config(path: Path) -> dict[str, Any]:
    """Returns config.json of a checkpoint whose weights are floats, or are read as floats.

    Experts in MXFP4 are read as floats. A GGUF file that transformers loaded and saved holds floats, though
    its config says "gguf".

    Raises:
        UserError: it cannot be read, or is of a quantized checkpoint or an adapter.
    """
    refuse_adapters(path)
    config = read_document(path)
    quantized = config.pop("quantization_config", None)
    quantized = quantized or config.get("compression_config") or config.get("quantization")
    method = quantized.get("quant_method") if isinstance(quantized, dict) else None
    if quantized and method not in (_FLOAT, _UNPACKED):
        raise _refused(f"{path} is a quantized checkpoint" + (f" ({method})" if method else ""))
    return config


def max_positions(config: Mapping[str, Any]) -> int:
    """Returns the longest context of a model, in tokens."""
    return int(config.get("max_position_embeddings") or DEFAULT_CONTEXT)


def read_document(path: Path) -> dict[str, Any]:
    """config.json as it is, but for data types, which older tools write as `torch.float16`.

    Raises:
        UserError: it cannot be read.
    """
    file = path / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path} has no config.json", "Is this a Hugging Face checkpoint directory?"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {file}: {error}") from None
    if not isinstance(config, dict):
        raise UserError(f"{file} is not a JSON object")
    dtypes = {key: config[key] for key in ("dtype", "torch_dtype") if isinstance(config.get(key), str)}
    return config | {key: value.removeprefix("torch.") for key, value in dtypes.items()}


def refuse_adapters(path: Path) -> None:
    """Refuses a folder with an adapter: loaders add it to the model that lies beside it, or is named in it.

    Raises:
        UserError: names the adapter's file.
    """
    found = [name for name in _ADAPTERS if (path / name).is_file()]
    if not found:
        return
    if (path / "config.json").is_file():
        raise UserError(
            f"{path} has an adapter (LoRA or the like) beside the model: {' and '.join(found)}",
            f"{_MERGE} Or take the adapter's files out of the folder, to use the model without it.",
        )
    raise UserError(f"{path} is an adapter (LoRA or the like), not a whole model: {found[0]}", _MERGE)


def refuse_unmerged(path: Path, names: Iterable[str]) -> None:
    """Refuses weights that were saved with an adapter still beside the layers that it changes.

    Raises:
        UserError: names one of its tensors.
    """
    for name in names:
        if not _ADAPTED.isdisjoint(name.split(".")):
            raise UserError(f"{path} holds an adapter that is not merged (`{name}`)", _MERGE)


def refuse_quantized(path: Path, names: Iterable[str], lacking: Collection[str] = ()) -> None:
    """Refuses a checkpoint that is quantized without its config saying so.

    It is recognised by the names of its tensors; if some of the model's tensors are missing, also by the
    files beside it.

    Raises:
        UserError: says by what.
    """
    for name in names:
        kind = _QUANTIZED.get(name.rpartition(".")[2])
        if kind:
            raise _refused(f"{path} is a quantized checkpoint ({kind}: it holds `{name}`)")
    for file, kind in _SIDE_FILES.items() if lacking else ():
        if (path / file).is_file():
            raise _refused(f"{path} is a quantized checkpoint ({kind}: it has {file})")


def _refused(what: str) -> UserError:
    return UserError(what, "Compress the unquantized model and quantize the result.")
