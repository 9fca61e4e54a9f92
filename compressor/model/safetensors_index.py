"""The tensors of a checkpoint, from the headers of its safetensors files, and reading them one by one.

What is read is a copy. safetensors maps whole files into memory that counts as the process's own, each file
as often as tensors of it are held: under a limit that would be refused.
"""

from __future__ import annotations

import errno
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from lathe.artefact.errors import UserError
from lathe.compressor.model.weight_files import weight_files

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
FLOATS = ("F64", "F32", "BF16", "F16")
_MAX_HEADER = 100 * 2**20
_DERIVED = ("rotary_emb.inv_freq", ".masked_bias")
"""How names of tensors end that older checkpoints hold and models work out themselves."""


@dataclass(frozen=True)
class TensorEntry:
    """The place of one tensor in a file, read from a safetensors header without touching its data.

    Attributes:
        offset: bytes from the beginning of the file.
    """

    file: Path
    shape: tuple[int, ...]
    dtype: str
    offset: int

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype as PyTorch has it."""
        return _DTYPES[self.dtype]

    def read(self, rows: slice = slice(None)) -> torch.Tensor:
        """Returns these rows, one after the other in the file; of a scalar, all.

        Raises:
            OSError: the file cannot be read, or ends too early.
        """
        first, end, _ = rows.indices(self.shape[0] if self.shape else 1)
        found = torch.empty((end - first, *self.shape[1:]), dtype=_DTYPES[self.dtype])
        with self.file.open("rb", buffering=0) as handle:
            self._fill(handle, found, first)
        return found if self.shape else found[0]

    def rows(self, at: torch.Tensor) -> torch.Tensor:
        """Returns the rows with these indices [...], of a matrix: [..., columns]. Each is read once.

        Raises:
            OSError: as `read`. IndexError: there is no such row.
        """
        wanted, places = at.unique(return_inverse=True)
        if len(wanted) and not 0 <= int(wanted[0]) <= int(wanted[-1]) < self.shape[0]:
            raise IndexError(f"rows {int(wanted[0])} to {int(wanted[-1])} of {self.shape[0]}")
        found = torch.empty((len(wanted), *self.shape[1:]), dtype=_DTYPES[self.dtype])
        with self.file.open("rb", buffering=0) as handle:
            for number, row in enumerate(wanted.tolist()):
                self._fill(handle, found[number : number + 1], row)
        return found[places]

    def _fill(self, handle: io.FileIO, found: torch.Tensor, first: int) -> None:
        """Reads consecutive rows, from one on."""
        memory = found.view(-1).view(torch.uint8).numpy().data
        handle.seek(self.offset + first * found[:1].nbytes)
        while memory:
            count = handle.readinto(memory)
            if not count:
                raise OSError(errno.EIO, "the file ends too early")
            memory = memory[count:]


def read_index(path: Path, named: Any = None) -> dict[str, TensorEntry]:
    """Every tensor of a checkpoint, by name, from the headers of its `weight_files`.

    Raises:
        UserError: a file is missing, truncated or damaged.
    """
    index: dict[str, TensorEntry] = {}
    for file in weight_files(path, named):
        index.update(read_header(file))
    return index


def read_header(file: Path) -> dict[str, TensorEntry]:
    """Parses and checks a safetensors header: length, JSON, dtypes, and that the data fills the file.

    Raises:
        UserError: the file is missing, truncated or damaged.
    """
    header, data_start, size = _read_json_header(file)
    entries, end = {}, data_start
    try:
        for name, item in header.items():
            if name != "__metadata__":
                entries[name], stop = _parse_entry(file, name, item, data_start)
                end = max(end, stop)
    except (TypeError, KeyError, ValueError, AttributeError):
        raise UserError(f"the header of {file} is malformed", _DAMAGED) from None
    if end != size:
        raise UserError(f"{file} has {size} bytes where its header promises {end}", _DAMAGED)
    try:
        with safe_open(file, framework="np"):
            return entries
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read {file}: {error}", _DAMAGED) from None


_DAMAGED = "The file is truncated or corrupt: download or copy it again."


def _read_json_header(file: Path) -> tuple[Any, int, int]:
    """Returns the header, the offset of the data behind it, and the size of the file.

    Raises:
        UserError: the file cannot be read, or has no header.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
            if size < 8 or not 2 <= length <= min(_MAX_HEADER, size - 8):
                raise UserError(f"{file} is not a complete safetensors file", _DAMAGED)
            return json.loads(handle.read(length)), 8 + length, size
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        raise UserError(f"the header of {file} is not valid JSON", _DAMAGED) from None


def _parse_entry(file: Path, name: str, item: Any, data_start: int) -> tuple[TensorEntry, int]:
    """Returns the entry of a tensor, and the offset in the file where its data ends.

    Raises:
        UserError: its data does not have the size of its shape.
    """
    shape, dtype, (begin, stop) = tuple(item["shape"]), item["dtype"], item["data_offsets"]
    count = 1
    for n in shape:
        count *= n
    if dtype in _DTYPES and stop - begin != count * _DTYPES[dtype].itemsize:
        raise UserError(f"`{name}` in {file} has {stop - begin} bytes for shape {list(shape)}", _DAMAGED)
    return TensorEntry(file, shape, dtype, data_start + begin), data_start + stop


def check_no_others(path: Path, known: set[str], index: dict[str, TensorEntry]) -> None:
    """Refuses weights that the family has no place for: without them the model would be another.

    Tensors that hold no floats are ignored: Pythia's checkpoints hold causal masks that are called a bias.
    """
    for name in sorted(index.keys() - known):
        if index[name].dtype in FLOATS and not name.endswith(_DERIVED):
            raise UserError(
                f"{path} has a tensor `{name}` that its model type has no place for",
                "Is config.json another model's?",
            )


def check_tensors(
    path: Path,
    tensors: Iterable[tuple[str, tuple[int, ...]]],
    index: dict[str, TensorEntry],
    dtypes: tuple[str, ...] = FLOATS,
) -> None:
    """Checks that a checkpoint holds these tensors (name, shape) in one of these types.

    Raises:
        UserError: one is missing, of another shape, or of another type.
    """
    for name, expected in tensors:
        if name not in index:
            other = next((stored for stored in sorted(index) if stored.endswith(f".{name}")), None)
            raise UserError(
                f"{path} lacks the tensor `{name}`",
                f"It has `{other}`: give its tensors the names that transformers saves them under."
                if other
                else "The checkpoint is incomplete, or config.json is another model's.",
            )
        if index[name].shape != expected:
            raise UserError(
                f"`{name}` in {path} has shape {list(index[name].shape)}; "
                f"config.json implies {list(expected)}"
            )
        if index[name].dtype not in dtypes:
            raise UserError(f"`{name}` in {path} holds {index[name].dtype} values", "Use a float checkpoint.")
