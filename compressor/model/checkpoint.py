"""A dense checkpoint on disk: its config, its tensor index, and its tensors one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch

from lathe.artefact.checkpoint_config import max_positions, read_config, refuse_quantized, refuse_unmerged
from lathe.artefact.errors import UserError
from lathe.artefact.gguf_suffix import is_gguf
from lathe.artefact.plan import ModelShape
from lathe.compressor.compute.device import CPU
from lathe.compressor.model.families import Family, TensorLocation, locate_tensors, resolve, stored_name
from lathe.compressor.model.families.experts import PACKED
from lathe.compressor.model.gguf import checkpoint_directory
from lathe.compressor.model.names import EMBEDDING, LM_HEAD, layer_prefix
from lathe.compressor.model.safetensors_index import (
    FLOATS,
    TensorEntry,
    check_no_others,
    check_tensors,
    read_index,
)
from lathe.compressor.model.tensor_names import Index, by_family_names, with_head
from lathe.compressor.model.tensor_shapes import block_tensors, tensors
from lathe.compressor.model.weight_files import layout_note

_FILES = (
    "*.json",
    "*.safetensors",
    "*.model",
    "*.jinja",
    "*.txt",
    "*.tiktoken",
    "LICENSE*",
    "NOTICE*",
    "USE_POLICY*",
)
"""Of a checkpoint on the hub."""
_CHECKED = 2**22
"""Values that are looked at together: temporaries stay small."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint directory whose config and headers have been checked; weights are read lazily.

    Attributes:
        path: the directory.
        name: what it was called by.
        config: as one of our model (`Family.read`).
        family: what says where its tensors are.
        shape: its dimensions.
        index: the checkpoint's own tensors, by the names that the family declares; all other names are ours.
        notes: warnings about how it was read, one sentence each.
    """

    path: Path
    name: str
    config: dict[str, Any]
    family: Family
    shape: ModelShape
    index: dict[str, TensorEntry] = field(repr=False)
    notes: tuple[str, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles the path; a process that unpickles it opens the checkpoint again, once."""
        return opened, (str(self.path),)

    @cached_property
    def dtype(self) -> torch.dtype:
        """The dtype that the config asks loaders to compute in; else the stored one."""
        asked = self.config.get("dtype") or self.config.get("torch_dtype")
        if asked is None:
            stored = self.index[self._locations[f"{EMBEDDING}.weight"].name].dtype
            asked = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}.get(stored, "float32")
        dtype = getattr(torch, str(asked), None)
        if not isinstance(dtype, torch.dtype):
            raise UserError(
                f"config.json of {self.path} asks for an unknown dtype `{asked}`", "Write such as `bfloat16`."
            )
        return dtype

    def tensor(self, name: str, at: torch.Tensor | None = None) -> torch.Tensor:
        """Returns one tensor as float32, a copy; with `at`, only these rows are read.

        Raises:
            UserError: the data cannot be read, or holds NaN or infinity.
        """
        place = self._locations[name]
        if place.packed:
            return self._unpacked(place)
        if not place.others:
            return self._stored(place.name, place, at)
        return torch.cat([self._stored(stored, place) for stored in place.names], place.axis)

    def _unpacked(self, place: TensorLocation) -> torch.Tensor:
        """Returns packed experts as float32."""
        assert place.stack is not None
        blocks, scales = (self._read(name) for name in place.stored)
        return self._finite(place.name + PACKED[1], place.stack.unpacked(blocks, scales))

    def _stored(self, name: str, place: TensorLocation, at: torch.Tensor | None = None) -> torch.Tensor:
        """A tensor of the checkpoint, or those of its rows that `place` says, as float32."""
        own, period = place.rows, place.period
        if at is not None and place.plain:
            return self._finite(name, self._read(name, at).float())
        part = self._read(name, slice(None) if period else own)
        if period:
            part = part.unflatten(0, (-1, period))[:, own].flatten(0, 1)
        part = place.stack.taken(part) if place.stack else part
        rows = part if at is None else part[at]
        return self._finite(name, rows.to(torch.float32, copy=True, memory_format=torch.contiguous_format))

    def _read(self, name: str, rows: slice | torch.Tensor = slice(None)) -> torch.Tensor:
        """Rows of a tensor of the checkpoint as they are."""
        entry = self.index[name]
        try:
            return entry.read(rows) if isinstance(rows, slice) else entry.rows(rows)
        except OSError as error:
            raise UserError(f"cannot read `{name}` from {self.index[name].file}: {error}") from None

    def _finite(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """The values of a tensor of the checkpoint, if they are numbers."""
        parts = value.view(-1).split(_CHECKED)
        if value.sum().isfinite() or all(torch.isfinite(part).all() for part in parts):
            return value  # NaN and infinity stay in a sum, and one that overflows has to be looked at
        raise UserError(
            f"`{name}` in {self.index[name].file} holds NaN or infinity", "The checkpoint is damaged."
        )

    def layer(self, index: int) -> dict[str, torch.Tensor]:
        """Returns the tensors of one decoder layer in float32, by their names relative to the layer.

        Of a pruned layer it returns those that are left.
        """
        prefix = layer_prefix(index)
        names = (name for name, _ in block_tensors(self.shape))
        there = (name for name in names if self._locations[prefix + name].stored.keys() <= self.index.keys())
        return {name: self.tensor(prefix + name) for name in there}

    def module(self, name: str) -> dict[str, torch.Tensor]:
        """A module's `weight` and, where it has one, its `bias`."""
        kinds = (kind for kind in ("weight", "bias") if f"{name}.{kind}" in self._locations)
        return {kind: self.tensor(f"{name}.{kind}") for kind in kinds}

    @cached_property
    def _locations(self) -> dict[str, TensorLocation]:
        return locate_tensors(self.family, self.shape, _packed(self.index))

    @property
    def positions(self) -> int:
        """The longest context that the config allows."""
        return max_positions(self.config)

    def names(self) -> Iterator[str]:
        """Yields the names of all tensors."""
        return (name for name, _ in tensors(self.shape))


@dataclass(frozen=True)
class Table:
    """A matrix [V, D] that stays in the checkpoint: rows by index [...], or all of it, float32, by device."""

    source: Checkpoint
    name: str
    device: torch.device = CPU

    def __getitem__(self, rows: torch.Tensor) -> torch.Tensor:
        return self.source.tensor(self.name, rows).to(self.device)

    def whole(self) -> torch.Tensor:
        return self.source.tensor(self.name).to(self.device)


def open_checkpoint(model: str) -> Checkpoint:
    """Opens a local checkpoint directory, a GGUF file, or a hub name.

    A GGUF file is converted on the first use; a model of the hub is fetched through huggingface_hub's cache.
    Checks the config, every safetensors header, and that each tensor of the family is there in its
    shape. Reads no weights.

    Raises:
        UserError: anything that would make a later stage fail.
    """
    path = _locate(model)
    raw = read_config(path)
    named = raw.pop("transformers_weights", None)
    family = resolve(raw)
    config = family.read(raw)
    index = read_index(path, named)
    refuse_quantized(path, index)
    refuse_unmerged(path, index)
    config, index, apart = _by_family(path, config, family, index)
    shape = family.shape(config)
    _check(path, [*locate_tensors(family, shape, _packed(index)).values()], index)
    notes = tuple(note for note in (layout_note(path, named), apart) if note)
    source = Checkpoint(path, _name(model, path), config, family, shape, index, notes)
    if not source.dtype.is_floating_point:
        raise UserError(f"config.json of {path} asks for `{source.dtype}` weights", "Use a float type.")
    return source


def _by_family(
    path: Path, config: dict[str, Any], family: Family, index: Index
) -> tuple[dict[str, Any], Index, str | None]:
    """Config and index as transformers reads the tensors' names, and a note where it goes against config."""
    shape = family.shape(config)
    tables = tuple(stored_name(family, f"{name}.weight") for name in (LM_HEAD, EMBEDDING))
    known = {
        name for place in locate_tensors(family, shape, _packed(index)).values() for name in place.stored
    }
    index = by_family_names(path, index, family, known | {*tables})
    refuse_quantized(path, index, known - index.keys())
    if not shape.tied_embeddings:
        return config, index, None
    index, note = with_head(path, index, *tables)
    return config | {"tie_word_embeddings": note is None}, index, note


def _check(path: Path, found: list[TensorLocation], index: Index) -> None:
    """Checks that all tensors of a model are there, and no others."""
    for packed, dtypes in ((False, FLOATS), (True, ("U8",))):
        stored = {n: dims for place in found if place.packed == packed for n, dims in place.stored.items()}
        check_tensors(path, stored.items(), index, dtypes)
    check_no_others(path, {name for place in found for name in place.stored}, index)


def _packed(index: dict[str, TensorEntry]) -> bool:
    """Returns whether a checkpoint has experts as MXFP4."""
    return any(name.endswith(PACKED) for name in index)


@lru_cache(maxsize=1)
def opened(path: str) -> Checkpoint:
    """Opens a local directory as `open_checkpoint` does; the last one is kept."""
    return open_checkpoint(path)


def open_config(model: str) -> Checkpoint:
    """Opens config.json as `open_checkpoint` does: the dimensions, and no tensors.

    Tensors that are there may show that the head is not tied.

    Raises:
        UserError: there is no such model, or its config will not do.
    """
    path = _locate(model, ["config.json"])
    raw = read_config(path)
    named = raw.pop("transformers_weights", None)
    family = resolve(raw)
    config = family.read(raw)
    if any(path.glob("*.safetensors")):
        config, _, _ = _by_family(path, config, family, read_index(path, named))
    return Checkpoint(path, _name(model, path), config, family, family.shape(config), {})


def _name(model: str, path: Path) -> str:
    """Returns what a model is called: as it was given, or, of a GGUF file, what its name begins with."""
    return path.name if is_gguf(model) else Path(model).name or path.name


def _locate(model: str, files: Sequence[str] = _FILES) -> Path:
    path = Path(model).expanduser()
    if path.is_dir():
        return path.resolve()
    if is_gguf(path):
        return checkpoint_directory(path)
    if path.exists():
        raise UserError(f"{path} is a file", "Give the checkpoint's directory, or a .gguf file.")
    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise UserError(
            f"there is no model directory {model}", "Give a local directory or a hub name such as org/name."
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, allow_patterns=[*files]))
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"`{model}` is neither a local directory nor a model that the hub gave: {reason}",
            "Check the name and the network, or download it and give its directory.",
        ) from None
