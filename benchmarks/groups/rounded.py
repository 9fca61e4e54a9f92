"""Layers rounded in given groups, to nearest or with compensation on text; dequantized."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from benchmarks.groups.choices import Choice
from benchmarks.quality.setting import Setting
from lathe.artefact.plan import BLOCK_KINDS
from lathe.compressor.model.block_runner import Weights
from lathe.compressor.model.rounding import QuantizedMatrix, quantize_in_groups
from lathe.compressor.reconstruction.compensated_rounding import round_compensated
from lathe.compressor.statistics.gram import Gram

Grams = Sequence[dict[str, torch.Tensor]]
"""X^T X / n of what each matrix reads, by name, layer by layer."""
_ROWS = 4
"""Windows per batch."""


@dataclass
class RoundedLayers:
    """All matrices of a model in some bits; each is rounded once for every group that is asked for.

    Attributes:
        layers: Dense.
        bits: Of a code.
        grams: For compensated rounding; None: to nearest.
    """

    layers: Sequence[Weights]
    bits: int
    grams: Grams | None = None
    _known: dict[tuple[int, str, int], QuantizedMatrix] = field(default_factory=dict)

    def __call__(self, choice: Choice) -> list[Weights]:
        """Returns the layers with the values that they have in these groups."""
        return [
            {**layer, **{name: self._matrix(index, name, group).values for name, group in groups.items()}}
            for index, (layer, groups) in enumerate(zip(self.layers, choice.groups, strict=True))
        ]

    def _matrix(self, index: int, name: str, group: int) -> QuantizedMatrix:
        key = (index, name, group)
        if key not in self._known:
            weight = self.layers[index][name]
            self._known[key] = (
                quantize_in_groups(weight, self.bits, group)
                if self.grams is None
                else round_compensated(weight, self.grams[index][name], self.bits, group)
            )
        return self._known[key]


@torch.inference_mode()
def input_grams(setting: Setting, windows: torch.Tensor) -> Grams:
    """Returns the Gram matrices of the inputs of all matrices in the dense model, on windows [B, T].

    Matrices that read the same share one.
    """
    parts, found = [setting.embed(tokens) for tokens in windows.split(_ROWS)], []
    for index, weights in enumerate(setting.layers):
        grams: dict[str, torch.Tensor] = {}
        for kind in BLOCK_KINDS:
            runner, sums = setting.runner.at(index), dict[str, Gram]()
            readers: dict[str, str] = {}
            for number, hidden in enumerate(parts):
                with runner.watch(kind) as seen:
                    parts[number] = runner.block(kind, weights, hidden)
                first: dict[int, str] = {}
                for name, (x, _) in seen.items():
                    readers[name] = first.setdefault(id(x), name)
                for name in first.values():
                    x = seen[name][0]
                    sums.setdefault(name, Gram(x.shape[-1])).add_batch(x)
            shared = {name: gram.finalize() for name, gram in sums.items()}
            grams |= {name: shared[reader] for name, reader in readers.items()}
        found.append(grams)
    return found
