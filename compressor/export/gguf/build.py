"""`build_gguf`: a file from a config, a plan and what gives the tensors."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lathe.artefact.checkpoint_config import max_positions
from lathe.artefact.errors import UserError
from lathe.artefact.gguf.installed import check_installed
from lathe.artefact.plan import Plan
from lathe.compressor.export.gguf.hosts import Host, host_of
from lathe.compressor.export.gguf.metadata import context_of, metadata_of
from lathe.compressor.export.gguf.subnet import Subnet
from lathe.compressor.export.gguf.tensors import file_tensors
from lathe.compressor.export.gguf.tokenizer import NONE, tokenizer_metadata
from lathe.compressor.export.gguf.types import Types
from lathe.compressor.export.gguf.writer import Read, Written, write_file
from lathe.compressor.model.families import Family

WRITING = "writing a GGUF file"
"""What the `gguf` package is needed for."""
log = logging.getLogger("lathe.export")


@dataclass(frozen=True)
class Origin:
    """What a file says of where its model comes from.

    Attributes:
        name: What the model is called.
        tokenizer: The checkpoint with its tokenizer; None: the file has none.
    """

    name: str
    tokenizer: Path | None = None


def build_gguf(
    path: Path,
    config: Mapping[str, Any],
    family: Family,
    plan: Plan,
    read: Read,
    types: Types,
    origin: Origin,
    *,
    durable: bool = True,
) -> Written:
    """Writes a GGUF file that released llama.cpp runs; one tensor at a time is in memory.

    Args:
        path: The file.
        config: The dense model's config.json document, as `Family.read` gives it.
        family: Its family.
        plan: The widths of every layer.
        read: Gives a pruned tensor, float32, or a matrix in codes, by its checkpoint name.
        types: The types of the tensors.
        origin: What the model is called, and where its tokenizer is.
        durable: Whether the file is synced.

    Raises:
        UserError: llama.cpp has no architecture or no tokenizer for the model, or the disk refuses.
    """
    check_installed(WRITING)
    model = Subnet(config, family.shape(config), plan)
    if len(plan) != model.shape.num_layers:
        raise UserError(f"the plan has {len(plan)} layers; the model has {model.shape.num_layers}")
    host = host_of(model, family.model_type)
    _warn_of_windows(host, model)
    tensors = [(tensor, types.of(tensor)) for tensor in file_tensors(host, model)]
    tokens = NONE
    if origin.tokenizer:
        tokens = tokenizer_metadata(origin.tokenizer, model.shape.vocab_size, host.architecture)
    metadata = {"general.name": origin.name, **types.metadata, **metadata_of(host, model), **tokens}
    return write_file(path, host.architecture, metadata, tensors, read, types.encode, durable=durable)


def _warn_of_windows(host: Host, model: Subnet) -> None:
    context, longest = context_of(host, model), max_positions(model.config)
    if context < longest:
        log.warning(
            "llama.cpp's `%s` has no sliding windows: the file's context is %s tokens, the window, not %s",
            host.architecture,
            f"{context:,}",
            f"{longest:,}",
        )
