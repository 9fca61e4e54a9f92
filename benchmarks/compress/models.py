"""Models to compress: checkpoints as they are, the first layers of one, and one of random weights."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.scale.models import write_random
from lathe.artefact.atomic_files import write_json
from lathe.artefact.disk_space import free_space
from lathe.artefact.errors import UserError
from lathe.compressor.model.checkpoint import Checkpoint, open_checkpoint
from lathe.compressor.model.safetensors_writer import DTYPE_NAMES, Entry, write_shards

RANDOM = "random-500m"
RANDOM_CONFIG: dict[str, Any] = {
    "model_type": "qwen2",
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_act": "silu",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151_936,
    "max_position_embeddings": 32_768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
    "dtype": "bfloat16",
    "bos_token_id": 0,
    "eos_token_id": 1,
}
"""The shape of Qwen2-0.5B, with the tokenizer of the demo's model."""
_LAYER = re.compile(r"\blayers\.(\d+)\.")
_DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}
_DISK_FACTOR = 20
"""Bytes on the disk for each parameter, at most: the graphs that are timed, statistics, and the artefact."""


@dataclass(frozen=True)
class BenchModel:
    """A checkpoint directory to compress, and what the document says of it."""

    path: Path
    facts: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.facts["name"])


def prepare_model(model: str, layers: int | None, scratch: Path) -> BenchModel:
    """Returns the checkpoint, made in `scratch` where it is random or only its first layers are asked for.

    Raises:
        UserError: there is no such checkpoint, it has fewer layers, or the disk has no space for the runs.
    """
    if model == RANDOM:
        write_random(_folder(scratch, model), RANDOM_CONFIG)
        source = open_checkpoint(str(scratch / model))
    elif Path(model).is_dir():
        source = open_checkpoint(model)
    else:
        raise UserError(
            f"--model {model} is no directory", f"Give a checkpoint's, or {RANDOM} for one of random weights."
        )
    shape, whole = source.shape, source.shape.num_layers
    _check_disk(scratch, _DISK_FACTOR * shape.parameters(shape.dense_plan))
    if layers is not None:
        source = open_checkpoint(str(first_layers(source, layers, scratch)))
        shape = source.shape
    facts = {
        "name": Path(model).resolve().name if model != RANDOM else RANDOM,
        "path": model,
        "layers": shape.num_layers,
        "layers_of_the_model": whole,
        "truncated": shape.num_layers < whole,
        "parameters": shape.parameters(shape.dense_plan),
        "vocabulary_rows": shape.vocab_size,
    }
    return BenchModel(source.path, facts)


def first_layers(source: Checkpoint, layers: int, scratch: Path) -> Path:
    """Writes a checkpoint of the first layers of a model, tensor by tensor; returns its directory.

    Raises:
        UserError: the model has fewer layers.
    """
    whole = source.shape.num_layers
    if not 1 <= layers <= whole:
        raise UserError(f"--layers {layers}: {source.path} has {whole} layers", f"Give 1 to {whole}.")
    directory = _folder(scratch, f"{source.path.name}-{layers}-layers")
    kept = {name: entry for name, entry in source.index.items() if _within(name, layers)}
    entries = {
        name: Entry(entry.shape, _DTYPES[entry.dtype])
        for name, entry in kept.items()
        if entry.dtype in _DTYPES
    }
    write_shards(directory, entries, lambda name: kept[name].read())
    for file in source.path.iterdir():
        if file.is_file() and "safetensors" not in file.name and file.name != "config.json":
            shutil.copy(file, directory)
    config = json.loads((source.path / "config.json").read_text())
    by_layer = {key: value[:layers] for key, value in config.items() if _is_by_layer(value, whole)}
    write_json(directory / "config.json", config | by_layer | {"num_hidden_layers": layers})
    return directory


def _within(name: str, layers: int) -> bool:
    found = _LAYER.search(name)
    return not found or int(found[1]) < layers


def _is_by_layer(value: Any, layers: int) -> bool:
    """Whether a value of the config has an item for every layer, as `layer_types` does."""
    return isinstance(value, list) and len(value) == layers


def _folder(scratch: Path, name: str) -> Path:
    folder = scratch / name
    folder.mkdir(parents=True)
    return folder


def _check_disk(scratch: Path, needed: int) -> None:
    folder, free = free_space(scratch)
    if free < needed:
        raise UserError(
            f"{folder} has {free / 2**30:.1f} GiB free, and the runs may take {needed / 2**30:.1f} GiB",
            "Free some, or name another disk by --work.",
        )
