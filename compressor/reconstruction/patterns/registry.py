"""Ways to prune a matrix to a pattern, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from lathe.artefact.registry import Registry
from lathe.compressor.model.pattern import Pattern


@dataclass(frozen=True)
class PatternMethod:
    """A way to prune a matrix to a pattern.

    Attributes:
        prune: (matrix [R, C] float32, [C, C] X^T X / n of its inputs, pattern) -> the matrix with zeros.
        corrects: Whether output projections are solved for the pruned model's stream before they are pruned,
            and their kept weights may still be refined with the whole model; a published method leaves both.
    """

    prune: Callable[[torch.Tensor, torch.Tensor, Pattern], torch.Tensor]
    corrects: bool = False


pattern_methods: Registry[PatternMethod] = Registry(
    "pattern method", "lathe.compressor.reconstruction.patterns"
)
"""Every method by the name that `--pattern-method` takes."""
