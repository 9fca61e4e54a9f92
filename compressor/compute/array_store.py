"""Big arrays: in memory, or in unlinked files, which disappear when they are closed or on a crash.

No file is mapped: values that were read are a copy, so that resident memory is what the caller holds.
"""

from __future__ import annotations

import copy
import errno
import os
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import overload

import torch

from lathe.artefact.errors import UserError
from lathe.compressor.compute.device import CPU

Tensors = Mapping[str, torch.Tensor]


class FileRows:
    """A float32 array on disk that is read, to a device, and written by its first axis: [B, ...]."""

    def __init__(self, directory: Path, shape: Sequence[int], device: torch.device = CPU) -> None:
        self.shape, self._device = torch.Size(shape), device
        self._file = _Unnamed(directory)
        self._row_bytes = 4 * self.shape[1:].numel()

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: torch.Tensor | slice) -> torch.Tensor:
        """A copy of the rows with these indices."""
        rows = self._indices(part)
        found = torch.empty(len(rows), *self.shape[1:])
        for value, row in zip(found, rows, strict=True):
            self._file.read(value, row * self._row_bytes)
        return found.to(self._device)

    def __setitem__(self, part: torch.Tensor | slice, values: torch.Tensor) -> None:
        for value, row in zip(values.detach().to(CPU), self._indices(part), strict=True):
            self._file.write(value, row * self._row_bytes)

    def _indices(self, part: torch.Tensor | slice) -> list[int]:
        return list(range(len(self))[part]) if isinstance(part, slice) else part.tolist()


ArrayLike = torch.Tensor | FileRows
"""Hidden states [B, T, D], read and written by windows."""


class Loaded(Sequence[Tensors]):
    """Parts made or read when asked for; the last one is kept. To another process they travel as a list."""

    def __init__(self, count: int, load: Callable[[int], Tensors]) -> None:
        self._count, self._load = count, load
        self._last: tuple[int, Tensors] | None = None

    def __reduce__(self) -> tuple[type, tuple[list[Tensors]]]:
        return list, ([*self],)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Tensors: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Tensors]: ...

    def __getitem__(self, index: int | slice) -> Tensors | Sequence[Tensors]:
        if isinstance(index, slice):
            chosen = range(self._count)[index]
            return Loaded(len(chosen), lambda i: self._load(chosen[i]))
        if not 0 <= index < self._count:
            raise IndexError(index)
        if self._last is None or self._last[0] != index:
            self._last = None
            self._last = (index, self._load(index))
        return self._last[1]


class ArrayStore:
    """Makes arrays.

    Args:
        directory: For files; None keeps everything in memory.
        device: The device of arrays in memory, and of values that are read.
    """

    def __init__(self, directory: Path | None = None, device: torch.device = CPU) -> None:
        self._directory, self.device = directory, device

    @property
    def bounded(self) -> bool:
        """True if arrays are on disk."""
        return self._directory is not None

    def rows(self, *shape: int) -> ArrayLike:
        """An array that is filled row by row."""
        if self._directory is None:
            return torch.empty(shape, device=self.device)
        return FileRows(self._directory, shape, self.device)

    def here(self, tensors: Tensors) -> Tensors:
        """Returns the tensors on the device."""
        return {name: value.to(self.device) for name, value in tensors.items()}

    def copy(self, rows: ArrayLike) -> ArrayLike:
        if isinstance(rows, torch.Tensor) and self._directory is None:
            return rows.clone()
        made = self.rows(*rows.shape)
        for part in torch.arange(len(rows)).split(1):
            made[part] = rows[part]
        return made

    def mapped(
        self,
        rows: ArrayLike,
        parts: Iterable[torch.Tensor],
        step: Callable[..., torch.Tensor],
        *beside: ArrayLike,
    ) -> ArrayLike:
        """Returns the results of a step on rows [B, T, ...], part by part, as [B, T, width of the results].

        The step gets the same parts of the arrays beside them, too. It returns the rows themselves if there
        is no part.
        """
        made: ArrayLike | None = None
        for part in parts:
            found = step(rows[part], *(other[part] for other in beside))
            made = self.rows(*rows.shape[:2], found.shape[-1]) if made is None else made
            made[part] = found
        return rows if made is None else made

    def load(self, count: int, load: Callable[[int], Tensors]) -> Sequence[Tensors]:
        """Parts that are on disk already: all of them now, or each when asked for."""

        def loaded(index: int) -> Tensors:
            return self.here(load(index))

        return Loaded(count, loaded) if self.bounded else [loaded(index) for index in range(count)]

    def keep(self, parts: Iterable[Tensors], backwards: bool = False) -> Sequence[Tensors]:
        """Named float32 tensors of each part, in order. backwards: the last part comes first."""
        if self._directory is None:
            kept: Sequence[Tensors] = list(parts)
        else:
            kept = _FileParts(self._directory, parts, self.device)
        return kept[::-1] if backwards else kept


class _FileParts(Sequence[Tensors]):
    """Named float32 tensors by part, one after the other in a file."""

    def __init__(self, directory: Path, parts: Iterable[Tensors], device: torch.device = CPU) -> None:
        self._file, self._device = _Unnamed(directory), device
        self._locations: list[dict[str, tuple[int, torch.Size]]] = []
        end = 0
        for part in parts:
            self._locations.append({})
            for name, value in part.items():
                self._locations[-1][name] = (end, value.shape)
                self._file.write(value, end)
                end += 4 * value.numel()

    def __len__(self) -> int:
        return len(self._locations)

    @overload
    def __getitem__(self, index: int) -> Tensors: ...
    @overload
    def __getitem__(self, index: slice) -> _FileParts: ...

    def __getitem__(self, index: int | slice) -> Tensors | _FileParts:
        if isinstance(index, slice):
            found = copy.copy(self)
            found._locations = self._locations[index]
            return found
        tensors = {}
        for name, (offset, shape) in self._locations[index].items():
            value = torch.empty(shape)
            self._file.read(value, offset)
            tensors[name] = value.to(self._device)
        return tensors


class _Unnamed:
    """A file of float32 values without a name, gone when it is let go of or its process is killed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        with self._refusals():
            self._file = tempfile.TemporaryFile(dir=directory, buffering=0)  # noqa: SIM115
        weakref.finalize(self, self._file.close)

    def read(self, value: torch.Tensor, offset: int) -> None:
        """Fills a contiguous tensor."""
        memory = _memory(value)
        with self._refusals():
            while memory:
                count = os.preadv(self._file.fileno(), [memory], offset)
                if not count:
                    raise OSError(errno.EIO, "a working file ends too early")
                memory, offset = memory[count:], offset + count

    def write(self, value: torch.Tensor, offset: int) -> None:
        memory = _memory(value.detach().to(CPU).contiguous())
        with self._refusals():
            while memory:
                count = os.pwrite(self._file.fileno(), memory, offset)
                memory, offset = memory[count:], offset + count

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"cannot keep working data in {self._directory}: {error.strerror or error}",
                "Free some space there and run again: what was finished is kept.",
            ) from None


def _memory(value: torch.Tensor) -> memoryview:
    if value.dtype != torch.float32:
        raise ValueError(f"working files hold float32, not {value.dtype}")
    return value.view(-1).view(torch.uint8).numpy().data
