"""Safetensors files written tensor by tensor, so that no shard is ever whole in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lathe.artefact.atomic_files import atomic_write, write_json

MAX_SHARD_BYTES = 4 * 2**30
DTYPE_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_WEIGHTS = "model.safetensors"
INDEX = f"{_WEIGHTS}.index.json"
"""What says which tensors are in which of several files."""
_NAMES = DTYPE_NAMES | {
    torch.float64: "F64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class Entry(NamedTuple):
    """A tensor to write, before there are values."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def write_safetensors(
    path: Path, entries: Mapping[str, Entry], tensor: Callable[[str], torch.Tensor]
) -> None:
    """Writes the tensors of `entries`, asking `tensor` for one at a time, in their order.

    In the file the wider dtypes come first, so that readers find every value aligned.

    Raises:
        UserError: the file system refuses.
        ValueError: a tensor has another shape or dtype than was announced.
    """
    header: dict[str, dict[str, Any]] = {"__metadata__": {"format": "pt"}}
    places, end = {}, 0
    for name, entry in sorted(entries.items(), key=lambda item: -item[1].dtype.itemsize):
        places[name], end = end, end + entry.bytes
        span = (places[name], end)
        header[name] = {"dtype": _NAMES[entry.dtype], "shape": entry.shape, "data_offsets": span}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    data = 8 + len(encoded)
    with atomic_write(path, data + end) as handle:
        handle.write(len(encoded).to_bytes(8, "little"))
        handle.write(encoded)
        for name, (dims, dtype) in entries.items():
            value = tensor(name)
            if value.shape != dims or value.dtype != dtype:
                raise ValueError(f"`{name}` is {value.dtype} {list(value.shape)}, not {dtype} {list(dims)}")
            handle.seek(data + places[name])
            handle.write(value.detach().contiguous().view(-1).view(torch.uint8).numpy().data)


def write_shards(
    directory: Path,
    entries: Mapping[str, Entry],
    tensor: Callable[[str], torch.Tensor],
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Writes tensors as `write_safetensors` does: into one file, or into several with an index.

    Raises:
        UserError: The file system refuses.
        ValueError: A tensor has another shape or dtype than was announced.
    """
    shards = _shards(entries, max_shard_bytes)
    if len(shards) == 1:
        write_safetensors(directory / _WEIGHTS, shards[0], tensor)
        return
    weight_map, total = {}, 0
    for number, part in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_safetensors(directory / file, part, tensor)
        weight_map.update(dict.fromkeys(part, file))
        total += sum(entry.bytes for entry in part.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_json(directory / INDEX, index)


def _shards(entries: Mapping[str, Entry], limit: int) -> list[dict[str, Entry]]:
    """Tensors in order, cut where the next would exceed `limit`; a larger one is alone in its shard."""
    shards: list[dict[str, Entry]] = [{}]
    filled = 0
    for name, entry in entries.items():
        if shards[-1] and filled + entry.bytes > limit:
            shards.append({})
            filled = 0
        shards[-1][name] = entry
        filled += entry.bytes
    return shards
