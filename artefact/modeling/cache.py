"""A KV cache for transformers' models, ours and theirs, under the name that this version has for it."""

from __future__ import annotations

from typing import Any

from transformers import DynamicCache

from lathe.artefact.modeling.modeling_lathe_llama import CACHE


def new_cache() -> dict[str, Any]:
    """An empty cache, as the keyword argument by which a causal LM is given it; calls fill it in place."""
    return {CACHE: DynamicCache()}
