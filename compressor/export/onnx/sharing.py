"""Graphs of a family that read the same weights: one file of what several of them read, linked to each.

Bytes of one graph are those of a wider one where a weight of the same name begins with them: a narrower
matrix is the first rows of a wider one, and an equal one is all of it. No bytes change, and so neither does
what a graph computes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from lathe.artefact.atomic_files import atomic_write, write_bytes
from lathe.artefact.large_writes import LargeWrites
from lathe.artefact.linked_files import link
from lathe.artefact.onnx.graph_format import DATA_FILE, MODEL_FILE, SHARED_DATA_FILE
from lathe.compressor.export.onnx.writer import append_aligned, set_location


@dataclass
class _Piece:
    """Bytes of a graph's data, and the weights that are views of them, by the number of their graph."""

    content: np.ndarray
    views: dict[int, list[TensorProto]] = field(default_factory=dict)

    def begins_with(self, content: np.ndarray) -> bool:
        """Returns whether these bytes begin with others."""
        return len(content) <= len(self.content) and bool(
            np.array_equal(self.content[: len(content)], content)
        )


def share_graphs(folders: Sequence[Path]) -> None:
    """Rewrites graphs and their data so that what several of them have is in one file, linked to each folder.

    Args:
        folders: Those of the graphs, the widest first, on one file system.

    Raises:
        UserError: the file system refuses.
    """
    models = [onnx.load(folder / MODEL_FILE, load_external_data=False) for folder in folders]
    pieces = _pieces(models, [np.memmap(folder / DATA_FILE, np.uint8, "r") for folder in folders])
    shared = folders[0] / SHARED_DATA_FILE
    _write(shared, (piece for piece in pieces if len(piece.views) > 1))
    for number, (folder, model) in enumerate(zip(folders, models, strict=True)):
        if number:
            link(shared, folder / SHARED_DATA_FILE)
        _write(folder / DATA_FILE, (piece for piece in pieces if [*piece.views] == [number]))
        write_bytes(folder / MODEL_FILE, model.SerializeToString())


def _pieces(models: Sequence[onnx.ModelProto], data: Sequence[np.ndarray]) -> list[_Piece]:
    """Returns the bytes of all graphs' weights, each once, with the weights that begin with them."""
    pieces: list[_Piece] = []
    by_name: dict[str, list[_Piece]] = {}
    for number, (model, content) in enumerate(zip(models, data, strict=True)):
        for (offset, length), protos in _stored(model).items():
            own = content[offset : offset + length]
            wider = by_name.get(protos[0].name, [])
            piece = next((piece for piece in wider if piece.begins_with(own)), None)
            if piece is None:
                piece = _Piece(own)
                pieces.append(piece)
                for proto in protos:
                    by_name.setdefault(proto.name, []).append(piece)
            piece.views[number] = protos
    return pieces


def _stored(model: onnx.ModelProto) -> dict[tuple[int, int], list[TensorProto]]:
    """Returns the weights by (offset, length) in the data file; weights in other dimensions share theirs."""
    found: dict[tuple[int, int], list[TensorProto]] = {}
    for proto in model.graph.initializer:
        if proto.data_location == TensorProto.EXTERNAL:
            found.setdefault(_place(proto), []).append(proto)
    return found


def _write(path: Path, pieces: Iterable[_Piece]) -> None:
    """Writes a data file and makes the weights views of it."""
    with atomic_write(path) as file:
        data = LargeWrites(file)
        for piece in pieces:
            offset = append_aligned(data, piece.content.data)
            for protos in piece.views.values():
                for proto in protos:
                    _, length = _place(proto)
                    set_location(proto, path.name, offset, length)
        data.flush()


def _place(proto: TensorProto) -> tuple[int, int]:
    """Returns the offset and the length of a weight's bytes in the data file."""
    entries = {entry.key: entry.value for entry in proto.external_data}
    return int(entries["offset"]), int(entries["length"])
