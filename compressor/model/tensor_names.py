"""A checkpoint's tensors under the names that its family declares, found by transformers' rules."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import torch

from lathe.artefact.errors import UserError
from lathe.compressor.model.families import Family
from lathe.compressor.model.safetensors_index import TensorEntry

Index = dict[str, TensorEntry]
_READ = 2**22
"""Values that are compared at a time."""


def by_family_names(path: Path, index: Index, family: Family, known: set[str]) -> Index:
    """Returns the index with tensors renamed to names of `known`, where transformers would do so.

    That is with the base model's prefix or without it, and for names that only newer or older checkpoints
    have.

    Raises:
        UserError: a tensor is there twice.
    """
    found: dict[str, str] = {}
    for name in index:
        own = next((n for n in _candidates(name, family) if n in known), name)
        if own in found:
            raise UserError(f"{path} holds `{own}` twice, as `{found[own]}` and as `{name}`", "Remove one.")
        found[own] = name
    return {own: index[name] for own, name in found.items()}


def _candidates(name: str, family: Family) -> Iterator[str]:
    prefix = f"{family.base_prefix}."
    for form in (name, *(name.replace(new, old) for new, old in family.name_aliases.items() if new in name)):
        yield from (form, prefix + form, form.removeprefix(prefix))


def with_head(path: Path, index: Index, head: str, table: str) -> tuple[Index, str | None]:
    """Returns the index of a model whose config ties its head to its embedding.

    Transformers' reading is followed: where only the head is stored, it is both; a stored head that equals
    the table is left out; one that differs counts, with a note.

    Raises:
        UserError: they cannot be read.
    """
    if head not in index:
        return index, None
    if table not in index:
        return {table if name == head else name: entry for name, entry in index.items()}, None
    if _equal(index[head], index[table], *(_version(index[name].file) for name in (head, table))):
        return {name: entry for name, entry in index.items() if name != head}, None
    return index, (
        f"config.json of {path} ties the head to the embedding, but the stored `{head}` differs from "
        f"`{table}`: read as a head of its own, as transformers does"
    )


def _version(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=16)
def _equal(one: TensorEntry, other: TensorEntry, *_versions: tuple[int, int]) -> bool:
    """Returns whether two tensors hold the same float32 values; compares part by part."""
    if one.shape != other.shape or not one.shape:
        return False
    rows = max(1, _READ // max(1, one.shape[-1]))
    parts = (slice(start, start + rows) for start in range(0, one.shape[0], rows))
    try:
        return all(torch.equal(one.read(part).float(), other.read(part).float()) for part in parts)
    except OSError as error:
        raise UserError(f"cannot read {one.file}: {error}") from None
