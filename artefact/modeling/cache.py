"""A KV cache for our models and those of transformers, by the name that the installed version uses."""

from __future__ import annotations

from typing import Any

from transformers import DynamicCache

from lathe.artefact.modeling.modeling_lathe_llama import CACHE


def new_cache() -> dict[str, Any]:
    """Returns an empty cache as the keyword argument of a causal LM, whose calls fill it in place."""
    return {CACHE: DynamicCache()}
