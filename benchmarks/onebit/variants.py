"""What is compared: ways to round the matrices of decoder layers, and the bits that each takes.

All but rounding to nearest go through the pass in which `compress` rounds: block after block, from what each
reads in the rounded model, its output projection solved again before it is rounded. As in `--method fast`,
hidden states come from bfloat16 products where those are faster.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch

from benchmarks.quality.opened import Text
from lathe.compressor.model.block_runner import Weights
from lathe.compressor.model.decoder import LayeredModel
from lathe.compressor.model.rounded_tensors import Rounded
from lathe.compressor.reconstruction.compensated_rounding import round_compensated
from lathe.compressor.reconstruction.one_bit.block import OneBitBlocks
from lathe.compressor.reconstruction.one_bit.levels import in_16_bits, sign
from lathe.compressor.reconstruction.one_bit.registry import binarizations
from lathe.compressor.reconstruction.one_bit.storage import SCALE_BITS
from lathe.compressor.reconstruction.rounded_block import AS_STORED, BlockRounding, Grams
from lathe.compressor.reconstruction.rounding_pass import RoundingPass

_NEAREST_GROUP = 128


class Made(NamedTuple):
    """Layers with the values of a format, and its bits per weight: as papers state them, and as stored."""

    layers: Sequence[Weights]
    nominal: float
    effective: float


Variant = Callable[[LayeredModel, Text], Made]


def dense(model: LayeredModel, _text: Text) -> Made:
    """The checkpoint's values."""
    bits = 8.0 * model.source.dtype.itemsize
    return Made(model.layers, bits, bits)


def nearest(model: LayeredModel, _text: Text) -> Made:
    """The sign of every weight times the mean magnitude of its group."""
    names = [name for kind in ("attention", "ffn") for name in model.runner.projections(kind)]
    weights = scales = 0
    layers = []
    for layer in model.layers:
        rounded = {}
        for name in (n for n in names if n in layer):
            groups = layer[name].split(_NEAREST_GROUP, 1)
            parts = [sign(g) * in_16_bits(g.abs().mean(1, keepdim=True)) for g in groups]
            rounded[name] = torch.cat(parts, 1)
            weights, scales = weights + layer[name].numel(), scales + len(layer[name]) * len(groups)
        layers.append({**layer, **rounded})
    return Made(layers, 1.0, 1.0 + SCALE_BITS * scales / weights)


def compensated(model: LayeredModel, text: Text, *, bits: int, group: int) -> Made:
    """Codes of some bits with a scale for every group of columns, rounded with compensation (GPTQ)."""
    weights = scales = 0

    def method(block: Weights, grams: Grams, solved: Weights = AS_STORED) -> dict[str, torch.Tensor]:
        nonlocal weights, scales
        made = {}
        for name, gram in grams.items():
            found = round_compensated(solved.get(name, block[name]), gram, bits, group)
            weights, scales = weights + block[name].numel(), scales + found.scales.numel()
            made[name] = found.values
        return made

    layers = _pass(model, text, method)
    return Made(layers, float(bits), bits + SCALE_BITS * scales / weights)


def one_bit(model: LayeredModel, text: Text, *, name: str) -> Made:
    """A binarization."""
    method = OneBitBlocks(binarizations.get(name))
    layers = _pass(model, text, method)
    return Made(layers, method.storage.nominal, method.storage.effective)


def _pass(model: LayeredModel, text: Text, method: BlockRounding) -> list[Weights]:
    rounding = RoundingPass(
        model,
        model.source.shape.dense_plan,
        text.windows,
        text.heldout,
        bfloat16=True,
        method=lambda _: method,
    )
    made: list[Rounded] = []
    for index in range(len(model.layers)):
        made.append(rounding.layer(index, made.__getitem__))
    return [rounding.served(index, layer) for index, layer in enumerate(made)]


VARIANTS: dict[str, Variant] = {
    "dense": dense,
    "nearest-1": nearest,
    "gptq-2-g32": partial(compensated, bits=2, group=32),
    "billm": partial(one_bit, name="billm"),
    "arb": partial(one_bit, name="arb"),
    "gptq-2-g128": partial(compensated, bits=2, group=128),
    "hbllm": partial(one_bit, name="hbllm"),
    "gptq-3-g128": partial(compensated, bits=3, group=128),
}
