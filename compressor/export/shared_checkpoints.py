"""Checkpoints of a family that hold the same tensors: files of what several of them hold, linked to each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from lathe.artefact.atomic_files import write_json
from lathe.artefact.linked_files import link
from lathe.compressor.model.safetensors_index import TensorEntry, read_index
from lathe.compressor.model.safetensors_writer import INDEX, Entry, write_safetensors

Plans = tuple[int, ...]
"""The numbers of the checkpoints that hold a tensor."""


def share_checkpoints(directories: Sequence[Path]) -> None:
    """Rewrites checkpoints so that tensors that several of them hold are in files of their own.

    A checkpoint then is what its index says: files that other checkpoints have, too, and one that they have
    not. All of it loads as any checkpoint in several files does.

    Args:
        directories: The checkpoints, on one file system.

    Raises:
        UserError: a file cannot be read, or the file system refuses.
    """
    indices = [read_index(directory) for directory in directories]
    holders = _holders(indices)
    groups = sorted({plans for own in holders for plans in own.values()})
    files: list[dict[str, str]] = [{} for _ in directories]
    written = [{entry.file for entry in index.values()} for index in indices]
    for plans in groups:
        first, *others = plans
        names = [name for name in indices[first] if holders[first][name] == plans]
        file = f"model-of-{'-'.join(str(plan + 1) for plan in plans)}.safetensors"
        _write(directories[first] / file, indices[first], names)
        for plan in others:
            link(directories[first] / file, directories[plan] / file)
        for plan in plans:
            files[plan] |= dict.fromkeys(names, file)
    for directory, index, weight_map, old in zip(directories, indices, files, written, strict=True):
        total = sum(_entry(entry).bytes for entry in index.values())
        write_json(directory / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
        for replaced in old:
            replaced.unlink()


def _holders(indices: Sequence[Mapping[str, TensorEntry]]) -> list[dict[str, Plans]]:
    """Returns, for each checkpoint and tensor, the checkpoints that hold the same values under that name."""
    found: list[dict[str, Plans]] = [{} for _ in indices]
    for name in dict.fromkeys(name for index in indices for name in index):
        alike: list[tuple[torch.Tensor, list[int]]] = []
        for plan, index in enumerate(indices):
            if name not in index:
                continue
            value = index[name].read()
            mine = next((plans for known, plans in alike if _same(known, value)), None)
            if mine is None:
                alike.append((value, [plan]))
            else:
                mine.append(plan)
        for _, plans in alike:
            for plan in plans:
                found[plan][name] = tuple(plans)
    return found


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


def _write(path: Path, index: Mapping[str, TensorEntry], names: Sequence[str]) -> None:
    write_safetensors(path, {name: _entry(index[name]) for name in names}, lambda name: index[name].read())


def _entry(entry: TensorEntry) -> Entry:
    return Entry(entry.shape, entry.torch_dtype)
