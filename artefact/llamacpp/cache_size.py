"""The bytes that a token takes in llama.cpp's KV cache, by the metadata of a GGUF file."""

from __future__ import annotations

from typing import Any

from lathe.artefact.errors import UserError
from lathe.artefact.gguf.file import GgufModel


def kv_bytes_per_token(model: GgufModel, value_bytes: int, *, flash: bool) -> int:
    """Returns the bytes of one token's keys and values in all layers.

    Without flash attention llama.cpp gives the values of every layer the room of the largest, where layers
    differ: its cache of values is transposed.

    Args:
        model: The file's header.
        value_bytes: Bytes of a value.
        flash: Whether attention is computed as flash attention.

    Raises:
        UserError: The header does not say how many heads there are.
    """
    name = model.architecture
    layers = model.required(f"{name}.block_count", int)
    queries = _by_layer(model, f"{name}.attention.head_count", layers)
    heads = _by_layer(model, f"{name}.attention.head_count_kv", layers, queries)
    usual = model.required(f"{name}.embedding_length", int) // queries[0] if queries[0] else 0
    keys, values = (model.get(f"{name}.attention.{which}_length", int, usual) for which in ("key", "value"))
    rows = sum(heads) if flash else layers * max(heads)
    return int(value_bytes * (keys * sum(heads) + values * rows))


def _by_layer(model: GgufModel, key: str, layers: int, default: list[int] | None = None) -> list[int]:
    found: Any = model.metadata.get(key, default)
    if isinstance(found, int):
        return [found] * layers
    if not isinstance(found, list) or not all(isinstance(heads, int) for heads in found) or not found:
        raise UserError(f"{model.path} does not say its heads (`{key}`)", "Is this a whole language model?")
    return found
