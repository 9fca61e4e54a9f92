"""A GGUF file as a Hugging Face checkpoint in Lathe's cache, which every command then reads."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from lathe.artefact.atomic_files import staged_directory, sync_directory, write_json
from lathe.artefact.cache_dir import cache_root
from lathe.artefact.disk_space import free_space
from lathe.artefact.errors import UserError
from lathe.artefact.gguf.file import GgufModel, open_gguf
from lathe.artefact.gguf.installed import check_installed
from lathe.artefact.gguf.tokenizer import check_tokenizer, save_tokenizer
from lathe.artefact.gguf_suffix import is_gguf
from lathe.compressor.model.file_digest import file_digest
from lathe.compressor.model.gguf.architectures import architecture_of
from lathe.compressor.model.gguf.config import config_of, generation_config_of
from lathe.compressor.model.gguf.quantization import check_type
from lathe.compressor.model.gguf.tensors import Converted, convert_tensors
from lathe.compressor.model.safetensors_writer import write_shards

log = logging.getLogger("lathe.gguf")

_VERSION = "1"
"""Of the conversion: another one makes checkpoints anew."""
_TOKENIZER_BYTES = 2**26
_PAUSE_S = 10.0
"""Seconds between two lines of progress."""


def directory_of(model: str) -> str:
    """Returns the checkpoint of a GGUF file, as `checkpoint_directory` does, and any other model as given."""
    return str(checkpoint_directory(model)) if is_gguf(model) else model


def checkpoint_directory(model: str | Path, cache_dir: Path | None = None) -> Path:
    """Returns the checkpoint of a GGUF file, which is made on the first use.

    Its name is the file's. It is keyed by the file's content, and complete if it is there. One tensor at a
    time is in memory.

    Raises:
        UserError: The file cannot be read, is damaged, or of a kind that Lathe does not read; or there is no
            space for the checkpoint.
    """
    check_installed("reading a GGUF file")
    source = open_gguf(Path(model).expanduser().absolute())
    for name, tensor in source.tensors.items():
        check_type(name, tensor)
    target = (cache_dir or cache_root()) / "gguf" / _key(source) / source.name
    if (target / "config.json").is_file():
        return target
    architecture = architecture_of(source)
    config = config_of(source, architecture)
    check_tokenizer(source)
    tensors = convert_tensors(source, architecture, config)
    _check_space(target, source, tensors)
    with staged_directory(target, shared="config.json") as temporary:
        _write(temporary, source, config, tensors)
    return target


def _write(
    directory: Path,
    source: GgufModel,
    config: Mapping[str, Any],
    tensors: Mapping[str, Converted],
) -> None:
    write_json(directory / "config.json", config)
    write_json(directory / "generation_config.json", generation_config_of(source))
    save_tokenizer(source, directory)
    entries = {name: tensor.entry for name, tensor in tensors.items()}
    write_shards(directory, entries, _told(source, tensors))
    sync_directory(directory)


def _told(source: GgufModel, tensors: Mapping[str, Converted]) -> Callable[[str], torch.Tensor]:
    """Returns a function that reads a tensor by name, and tells of progress now and then."""
    total = sum(tensor.entry.bytes for tensor in tensors.values())
    log.warning(
        "%s: converting to a Hugging Face checkpoint of %.0f MiB, once; it stays in Lathe's cache",
        source.path.name,
        total / 2**20,
    )
    done, told = 0, time.monotonic()

    def read(name: str) -> torch.Tensor:
        nonlocal done, told
        try:
            value = tensors[name].read()
        except OSError as error:
            raise UserError(f"cannot read {tensors[name].source.file}: {error.strerror or error}") from None
        done += value.nbytes
        if time.monotonic() - told >= _PAUSE_S:
            told = time.monotonic()
            log.warning("%s: %.0f %% converted", source.path.name, 100 * done / total)
        return value

    return read


def _key(source: GgufModel) -> str:
    """Returns a fingerprint of the content of all files, of all metadata, and of the conversion.

    Of long files not every block is read, so metadata that was edited in place counts by itself.
    """
    digest = hashlib.sha256(f"{_VERSION} {json.dumps(source.metadata)}".encode())
    for file in source.files:
        digest.update(file_digest(file).encode())
    return digest.hexdigest()[:16]


def _check_space(target: Path, source: GgufModel, tensors: Mapping[str, Converted]) -> None:
    needed = sum(tensor.entry.bytes for tensor in tensors.values()) + _TOKENIZER_BYTES
    parent, free = free_space(target)
    if free < needed:
        raise UserError(
            f"{parent} has {free / 2**20:.0f} MiB free; the checkpoint of {source.path} needs "
            f"{needed / 2**20:.0f} MiB",
            "Free some space, or set LATHE_CACHE to a folder on another disk.",
        )
