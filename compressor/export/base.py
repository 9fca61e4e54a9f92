"""What every exporter is given, and the registry that finds one by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from compressor.plan import Plan
from compressor.registry import Registry
from compressor.source import Source


@dataclass(frozen=True)
class Export:
    """One subnet to write. `tensor` gives a cut tensor (the plan's shape), float32, by checkpoint name."""

    source: Source
    plan: Plan
    tensor: Callable[[str], torch.Tensor]

    def stored(self, name: str) -> torch.Tensor:
        """A cut tensor in `source.dtype`: the values every export must agree on."""
        return self.tensor(name).to(self.source.dtype)


@dataclass(frozen=True)
class Exporter:
    """One format. write: puts its files into an artefact directory. check: whether a model can be written,
    from its config alone. folder: where in the artefact the model lies that an engine is given.

    Raises:
        UserError: the model needs something that the format does not have, or the disk refuses.
    """

    write: Callable[[Path, Export], None]
    check: Callable[[Source], None] = lambda _source: None
    folder: str = "."


exporters: Registry[Exporter] = Registry("exporter", "compressor.export")
