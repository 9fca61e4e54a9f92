"""The models that are compared with dense at once: as many as memory holds beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import psutil
import torch

from lathe.artefact.gguf_suffix import MODEL_FILE
from lathe.artefact.onnx.graph_format import FOLDER
from lathe.compressor.compute.device import CPU, free_bytes

_LOADED = 2
"""The bytes of a loaded model by those of its files: stored in 16 bits and computed in 32, or packed anew."""
_SHARE = 0.5
"""The share of free memory that models may take; logits and temporaries need some, too."""


def in_memory_together(
    models: Sequence[str], against: str | None, device: torch.device = CPU
) -> list[list[str]]:
    """Splits models, in their order, into groups that are loaded together; by one without a dense model."""
    if against is None:
        return [[model] for model in models]
    free = psutil.virtual_memory().available if device == CPU else free_bytes(device)
    room, groups, used = _SHARE * free - _loaded_bytes(against), list[list[str]](), 0
    for model in models:
        size = 0 if model == against else _loaded_bytes(model)
        if not groups or (size and used + size > room):
            groups.append([])
            used = 0
        groups[-1].append(model)
        used += size
    return groups


def _loaded_bytes(model: str) -> int:
    """Returns about the bytes of a model in memory."""
    place = Path(model)
    weights = [*place.glob("*.safetensors")] or [*(place / FOLDER).glob("*"), *place.glob(MODEL_FILE)]
    return _LOADED * sum(path.stat().st_size for path in weights)
