"""What is compared: ways to prune all matrices of decoder layers to a pattern.

All go through the pass of `compress --pattern`: block after block, from what each reads in the pruned model.
Published methods leave it at that. `joint` solves output projections for the pruned model's stream, too;
`joint, refined` is what `compress --pattern` writes with `--method fast`, and `int8` what that becomes with
`--quantize int8`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from benchmarks.quality.opened import Text
from lathe.compressor.model.block_runner import Weights
from lathe.compressor.model.decoder import LayeredModel
from lathe.compressor.model.pattern import Pattern
from lathe.compressor.model.rounded_tensors import Rounded
from lathe.compressor.reconstruction.kl_passes import KLProblem
from lathe.compressor.reconstruction.kl_steps import refine_in_steps
from lathe.compressor.reconstruction.patterns.block import PatternBlocks
from lathe.compressor.reconstruction.patterns.registry import pattern_methods
from lathe.compressor.reconstruction.rounding_pass import RoundingPass

DENSE, DENSE_INT8, REFINED, INT8 = "dense", "dense, int8", "joint, refined", "joint, refined, int8"
METHODS = ("magnitude", "wanda", "sparsegpt", "mrp", "joint")
VARIANTS = (DENSE, *METHODS, REFINED, INT8, DENSE_INT8)
_MADE_FROM = {REFINED: "joint", INT8: REFINED, DENSE_INT8: DENSE}

Layers = Sequence[Weights]


@dataclass
class Maker:
    """Makes variants of a model; what others are made from is made once.

    Attributes:
        model: The dense model.
        text: Its calibration text.
        pattern: The pattern.
    """

    model: LayeredModel
    text: Text
    pattern: Pattern
    _made: dict[str, Layers] = field(default_factory=dict)

    def __call__(self, variant: str) -> Layers:
        """Returns the layers of a variant."""
        if variant not in self._made:
            self._made[variant] = self._make(variant)
        return self._made[variant]

    def _make(self, variant: str) -> Layers:
        if variant == DENSE:
            return self.model.layers
        if variant in METHODS:
            blocks = PatternBlocks(self.pattern, pattern_methods.get(variant), self.model.source.dtype)
            rounding = self._pass(self.model.layers)
            return _layers(replace(rounding, method=lambda _bits: blocks))
        before = self(_MADE_FROM[variant])
        if variant == REFINED:
            return self._refined(before)
        plan = self.model.source.shape.dense_plan.in_bits(8, 0)
        return _layers(replace(self._pass(before), plan=plan, keep_zeros=variant == INT8))

    def _pass(self, layers: Layers) -> RoundingPass:
        return RoundingPass(
            replace(self.model, layers=layers),
            self.model.source.shape.dense_plan,
            self.text.windows,
            self.text.heldout,
            bfloat16=True,
        )

    def _refined(self, layers: Layers) -> Layers:
        problem = KLProblem(
            self.model, layers, self.text.windows, self.text.heldout, bfloat16=True, keep_zeros=True
        )
        refined, _, _ = refine_in_steps(problem)
        dtype = self.model.source.dtype
        return [{name: w.to(dtype).float() for name, w in refined[i].items()} for i in range(len(layers))]


def _layers(rounding: RoundingPass) -> Layers:
    made: list[Rounded] = []
    with torch.inference_mode():
        for index in range(len(rounding.model.layers)):
            made.append(rounding.layer(index, made.__getitem__))
    return [rounding.served(index, layer) for index, layer in enumerate(made)]


def zeros_of(layers: Layers, names: set[str]) -> float:
    """Returns the share of zeros in the matrices with these names."""
    matrices = [w for layer in layers for name, w in layer.items() if name in names]
    return sum(int((w == 0).sum()) for w in matrices) / sum(w.numel() for w in matrices)
