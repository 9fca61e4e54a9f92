"""The uneven Hugging Face checkpoint: streamed shards, config, the modelling files, the tokenizer."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from lathe.artefact.atomic_files import atomic_write, sync_directory, write_bytes, write_json
from lathe.artefact.errors import UserError
from lathe.artefact.modeling import AUTO_MAPS
from lathe.artefact.plan import LayerShape, Plan
from lathe.artefact.shipped_files import SHIPPED_FILES
from lathe.compressor.export.base import Export, Exporter, check_known, exporters
from lathe.compressor.export.layout import pruned_tensors
from lathe.compressor.model.checkpoint import Checkpoint
from lathe.compressor.model.safetensors_writer import DTYPE_NAMES, MAX_SHARD_BYTES, Entry, write_shards

_COMPANIONS = (
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "*.jinja",
    "chat_template*",
    "additional_chat_templates/*.jinja",
    "LICENSE*",
    "NOTICE*",
    "USE_POLICY*",
)


def export_checkpoint(directory: Path, job: Export) -> None:
    """Does what `write_checkpoint` does, in shards of at most 4 GiB."""
    write_checkpoint(directory, job.source, job.plan, job.tensor)


exporters.add(
    "checkpoint",
    Exporter(
        write=export_checkpoint, types=AUTO_MAPS, check=lambda source: check_known(source, "checkpoint")
    ),
)


def write_checkpoint(
    directory: Path,
    source: Checkpoint,
    plan: Plan,
    tensor: Callable[[str], torch.Tensor],
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Writes a checkpoint that loads through AutoModelForCausalLM, with or without Lathe installed.

    `tensor` gives a pruned tensor by name; values are stored in `source.dtype`. Otherwise as `write_model`.

    Raises:
        UserError: as `uneven_config` and `write_model`.
    """
    config = uneven_config(source, plan)
    shapes = pruned_tensors(source.shape, plan)
    entries = {name: Entry(dims, source.dtype) for name, dims in shapes}
    write_model(directory, source, config, entries, Export(source, plan, tensor).stored, max_shard_bytes)


def write_model(
    directory: Path,
    source: Checkpoint,
    config: dict[str, Any],
    entries: Mapping[str, Entry],
    tensor: Callable[[str], torch.Tensor],
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Writes tensors as they are to be stored, and what else a checkpoint of ours has.

    `tensor` is asked once for each name, in order; one tensor is in memory at a time. `config.json` is
    written last: a directory that has it is complete. An older checkpoint in `directory` is replaced.

    Raises:
        UserError: the dtype cannot be stored, `directory` is the source's own, or the file system refuses.
    """
    if directory.resolve() == source.path:
        raise UserError(f"{directory} holds the dense model", "Choose another output directory.")
    if source.dtype not in DTYPE_NAMES:
        raise UserError(f"cannot store {source.dtype} weights", "Set `dtype` in config.json to a float type.")
    _clear(directory)
    write_shards(directory, entries, tensor, max_shard_bytes)
    for file in SHIPPED_FILES[source.family.exported_type]:
        write_bytes(directory / file.name, file.read_bytes())
    copy_companions(source.path, directory)
    write_json(directory / "config.json", config)
    sync_directory(directory)


def _clear(directory: Path) -> None:
    """Removes an older checkpoint's config and weights: transformers prefers one file to newer shards."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for file in (directory / "config.json", *directory.glob("model*.safetensors*")):
            file.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {directory}: {error.strerror or error}") from None


def uneven_config(source: Checkpoint, plan: Plan) -> dict[str, Any]:
    """The subnet's config.json: the dense one, `per_layer_config` and `dropped_blocks`.

    Raises:
        UserError: the plan is for another depth.
    """
    family, dense = source.family, source.shape.layer
    if len(plan) != source.shape.num_layers:
        raise UserError(f"the plan has {len(plan)} layers; {source.path} has {source.shape.num_layers}")
    overrides = {str(i): _overrides(layer, dense) for i, layer in enumerate(plan.layers)}
    inherited = {key: value for key, value in source.config.items() if key not in ("dtype", "torch_dtype")}
    return inherited | {
        "model_type": family.exported_type,
        "architectures": [AUTO_MAPS[family.exported_type]["AutoModelForCausalLM"].rpartition(".")[2]],
        "auto_map": AUTO_MAPS[family.exported_type],
        "dtype": str(source.dtype).removeprefix("torch."),
        "head_dim": source.shape.head_dim,
        "num_key_value_heads": dense.kv_heads,
        "allow_global_per_layer_attribute_access": True,
        "per_layer_config": {index: widths for index, widths in overrides.items() if widths},
        "dropped_blocks": {
            "attention": [i for i, layer in enumerate(plan.layers) if not layer.kv_heads],
            "ffn": [i for i, layer in enumerate(plan.layers) if not layer.ffn],
        },
    }


def _overrides(layer: LayerShape, dense: LayerShape) -> dict[str, int]:
    """Returns what differs from the dense widths; a dropped block has no widths."""
    widths = {
        "num_attention_heads": (layer.query_heads, dense.query_heads),
        "num_key_value_heads": (layer.kv_heads, dense.kv_heads),
        "intermediate_size": (layer.ffn, dense.ffn),
        "experts": (layer.experts, dense.experts),
    }
    return {key: value for key, (value, usual) in widths.items() if value and value != usual}


def copy_companions(source: Path, target: Path) -> None:
    """Copies the generation config, every tokenizer file and the licence.

    Raises:
        UserError: a file cannot be read or written.
    """
    files = sorted({file for pattern in _COMPANIONS for file in source.glob(pattern) if file.is_file()})
    for file in files:
        copy = target / file.relative_to(source)
        copy.parent.mkdir(exist_ok=True)
        with file.open("rb") as reader, atomic_write(copy, file.stat().st_size) as writer:
            shutil.copyfileobj(reader, writer)
