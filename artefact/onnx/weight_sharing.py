"""Which bytes of the weights several graphs have in common on disk: places in one file, or in links to it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

File = tuple[int, int]
"""Device and inode: equal for all links to one file."""


@dataclass(frozen=True)
class WeightBytes:
    """The bytes that one graph reads.

    Attributes:
        own: which no other graph reads.
        shared: which another one reads, too.
    """

    own: int
    shared: int


def weight_sharing(graphs: Mapping[str, Path]) -> tuple[dict[str, WeightBytes], int]:
    """Returns the weight bytes of each graph, and those of all together, in which each byte counts once.

    Tensors inside of a graph's own file are left out.
    """
    places = {name: _places(graph) for name, graph in graphs.items()}
    own, shared, whole = dict.fromkeys(graphs, 0), dict.fromkeys(graphs, 0), 0
    for file in {file for found in places.values() for file in found}:
        edges = np.unique([edge for found in places.values() for place in found[file] for edge in place])
        sizes = np.diff(edges)
        covered = {name: _covered(found[file], edges) for name, found in places.items()}
        readers = sum(mask.astype(int) for mask in covered.values())
        whole += int(sizes[readers > 0].sum())
        for name, mask in covered.items():
            own[name] += int(sizes[mask & (readers == 1)].sum())
            shared[name] += int(sizes[mask & (readers > 1)].sum())
    return {name: WeightBytes(own[name], shared[name]) for name in graphs}, whole


def _places(graph: Path) -> dict[File, list[tuple[int, int]]]:
    """Returns the first byte of each tensor in a file, and the first after it."""
    found: dict[File, list[tuple[int, int]]] = defaultdict(list)
    for tensor in onnx.load(graph, load_external_data=False).graph.initializer:
        stated = {entry.key: entry.value for entry in tensor.external_data}
        if stated:
            status = (graph.parent / stated["location"]).stat()
            start = int(stated.get("offset", 0))
            length = int(stated.get("length", status.st_size - start))
            found[status.st_dev, status.st_ino].append((start, start + length))
    return found


def _covered(places: list[tuple[int, int]], edges: np.ndarray) -> np.ndarray:
    """Returns which stretches between two edges lie in one of the places, bool [E - 1]."""
    mask = np.zeros(len(edges) - 1, bool)
    for start, stop in places:
        mask[np.searchsorted(edges, start) : np.searchsorted(edges, stop)] = True
    return mask
