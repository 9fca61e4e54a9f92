"""Checkpoints of a family that hold the same values: files of what several of them hold, linked to each.

The matrices that read a block's input have the rows of heads and channels in the order of their importance,
so that those of a narrower subnet are the first of a wider one's. Both then have the file with the wider
one's, and `shared_rows` in a config.json says that a model has the first rows of what its files hold.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lathe.artefact.atomic_files import write_json
from lathe.artefact.linked_files import link
from lathe.artefact.modeling import register
from lathe.artefact.transformers_config import reference_config
from lathe.compressor.model.safetensors_index import TensorEntry, read_index
from lathe.compressor.model.safetensors_writer import INDEX, Entry, write_safetensors

Plans = tuple[int, ...]
"""The numbers of the checkpoints that hold a tensor; the first of them has all of its rows."""


@dataclass(frozen=True)
class _Checkpoint:
    """A checkpoint of a family.

    Attributes:
        directory: Where it is.
        config: As transformers reads it.
        index: Its tensors by name.
    """

    directory: Path
    config: Any
    index: Mapping[str, TensorEntry]

    @classmethod
    def open(cls, directory: Path) -> _Checkpoint:
        return cls(directory, reference_config(directory), read_index(directory))

    def rows(self, name: str) -> int:
        """Returns the rows of one of its tensors."""
        return self.index[name].shape[0]

    def mark(self) -> None:
        """Writes down that its files have more rows than it."""
        path = self.directory / "config.json"
        write_json(path, json.loads(path.read_text(encoding="utf-8")) | {"shared_rows": True})


def share_checkpoints(directories: Sequence[Path]) -> None:
    """Rewrites checkpoints so that what several of them hold is in files of its own.

    A checkpoint then is what its index says: files that other checkpoints have, too, and one that they have
    not. It loads through its own model files, or in vLLM through the plugin beside it.

    Args:
        directories: The checkpoints, on one file system.

    Raises:
        UserError: a file cannot be read, or the file system refuses.
    """
    register()
    checkpoints = [_Checkpoint.open(directory) for directory in directories]
    holders = _holders(checkpoints)
    files: list[dict[str, str]] = [{} for _ in directories]
    for plans in sorted(set(holders.values())):
        first, *others = plans
        names = [name for (plan, name), held in holders.items() if plan == first and held == plans]
        file = f"model-of-{'-'.join(str(plan + 1) for plan in plans)}.safetensors"
        _write(directories[first] / file, checkpoints[first].index, names)
        for plan in others:
            link(directories[first] / file, directories[plan] / file)
        for plan in plans:
            files[plan] |= dict.fromkeys(names, file)
    for number, (checkpoint, weight_map) in enumerate(zip(checkpoints, files, strict=True)):
        facts = {
            "total_size": sum(_entry(entry).bytes for entry in checkpoint.index.values()),
            "total_parameters": sum(math.prod(entry.shape) for entry in checkpoint.index.values()),
        }
        document = {"metadata": facts, "weight_map": weight_map}
        write_json(checkpoint.directory / INDEX, document)
        for replaced in {entry.file for entry in checkpoint.index.values()}:
            replaced.unlink()
        if any(checkpoint.rows(n) < checkpoints[holders[number, n][0]].rows(n) for n in checkpoint.index):
            checkpoint.mark()


def _holders(checkpoints: Sequence[_Checkpoint]) -> dict[tuple[int, str], Plans]:
    """Returns the checkpoints that have the file of each tensor, by (number of a checkpoint, name)."""
    found: dict[tuple[int, str], Plans] = {}
    for name in dict.fromkeys(name for checkpoint in checkpoints for name in checkpoint.index):
        having = [plan for plan, checkpoint in enumerate(checkpoints) if name in checkpoint.index]
        alike: list[tuple[torch.Tensor, list[int]]] = []
        for plan in sorted(having, key=lambda plan: -checkpoints[plan].rows(name)):
            value = checkpoints[plan].index[name].read()
            by_rows = checkpoints[plan].config.rows(name) == checkpoints[plan].rows(name)
            mine = next((plans for known, plans in alike if _begins(known, value, by_rows)), None)
            if mine is None:
                alike.append((value, [plan]))
            else:
                mine.append(plan)
        found |= {(plan, name): tuple(plans) for _, plans in alike for plan in plans}
    return found


def _begins(whole: torch.Tensor, value: torch.Tensor, by_rows: bool) -> bool:
    """Tells whether values are the same, or by rows the first of the others."""
    first = whole[: len(value)] if by_rows else whole
    return whole.dtype == value.dtype and torch.equal(first, value)


def _write(path: Path, index: Mapping[str, TensorEntry], names: Sequence[str]) -> None:
    write_safetensors(path, {name: _entry(index[name]) for name in names}, lambda name: index[name].read())


def _entry(entry: TensorEntry) -> Entry:
    return Entry(entry.shape, entry.torch_dtype)
