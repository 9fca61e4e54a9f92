"""A loaded GGUF model and a context over it, both freed with their last reference."""

from __future__ import annotations

import os
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from lathe.artefact.errors import UserError
from lathe.artefact.llamacpp.library import explanation, llama_cpp

CACHE_TYPES = {"f16": 2, "f32": 4}
"""Types of keys and values, with the bytes of one."""


@dataclass(frozen=True)
class Sizes:
    """What a context has room for.

    Attributes:
        sequences: how many sequences there are.
        length: the tokens of each.
        batch: the most tokens of a batch.
        outputs: the most of them after which logits are wanted.
    """

    sequences: int
    length: int
    batch: int
    outputs: int


def load_model(path: Path) -> Any:
    """Loads a GGUF file.

    Raises:
        UserError: llama.cpp is missing or cannot load the file, or the model is no decoder with a KV cache.
    """
    api = llama_cpp()
    explanation()
    model = api.llama_model_load_from_file(str(path).encode(), api.llama_model_default_params())
    if not model:
        raise UserError(f"llama.cpp cannot load {path}: {explanation()}")
    if api.llama_model_has_encoder(model) or any(
        keeps(model) for keeps in (api.llama_model_is_recurrent, api.llama_model_is_hybrid)
    ):
        api.llama_model_free(model)
        raise UserError(f"{path} is not a decoder with a KV cache in every layer, which alone is run here")
    return model


def new_context(model: Any, path: Path, sizes: Sizes, threads: int | None, cache: str, flash: bool) -> Any:
    """Returns a context over a model, with a cache for every sequence.

    Raises:
        UserError: llama.cpp makes none; the model is freed.
    """
    api = llama_cpp()
    options = api.llama_context_default_params()
    options.n_ctx, options.n_seq_max = sizes.sequences * sizes.length, sizes.sequences
    options.n_batch, options.n_outputs_max = sizes.batch, sizes.outputs
    options.n_threads = options.n_threads_batch = threads or usable_cores()
    options.type_k = options.type_v = getattr(api, f"GGML_TYPE_{cache.upper()}")
    options.flash_attn_type = int(flash)
    explanation()
    context = api.llama_init_from_model(model, options)
    if not context:
        api.llama_model_free(model)
        raise UserError(
            f"llama.cpp has no context for {path} with {sizes.sequences} sequences of {sizes.length} tokens: "
            f"{explanation()}",
            "Lower --max-batch or --max-length.",
        )
    return context


def free_with(owner: object, model: Any, context: Any) -> None:
    """Frees a model and its context when their owner is no longer used."""
    api = llama_cpp()

    def free() -> None:
        api.llama_free(context)
        api.llama_model_free(model)

    weakref.finalize(owner, free)


def usable_cores() -> int:
    """Returns how many cores this process may compute on.

    llama.cpp's threads wait by turning: more of them than cores are many times as slow.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))
