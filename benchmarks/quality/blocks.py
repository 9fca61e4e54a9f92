"""Pruning block after block: a layer's two blocks by their prunable units, and the stream through them.

A unit is what goes as a whole: a KV group with its query heads, or an FFN channel. Removing units removes
columns of the block's output projection (o_proj, down_proj) and the rows that feed them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmarks.quality.setting import Setting
from lathe.artefact.plan import BlockKind
from lathe.compressor.model.names import DOWN_PROJ, O_PROJ
from lathe.compressor.model.pruning import Selection, prune_attention, prune_ffn, rows
from lathe.compressor.statistics import Gram

_ROWS = 8
_CACHED = 2**29


@dataclass(frozen=True)
class Kind:
    """One kind of block of a model.

    output: name of its output projection. units: how many a dense block has. columns: of the output
    projection, per unit. parameters: of a block, per unit.
    """

    name: BlockKind
    output: str
    units: int
    columns: int
    parameters: int


def kinds(setting: Setting) -> tuple[Kind, Kind]:
    """Attention and FFN, in the order a layer runs them."""
    layer, shape = setting.shape.layer, setting.shape
    per_group, d = layer.heads_per_group, shape.hidden_size
    group = 2 * shape.head_dim * (per_group + 1) * d
    if shape.attention_bias:
        group += shape.head_dim * (per_group + 2)
    channel = 3 * d + (2 if shape.mlp_bias else 0)
    return (
        Kind("attention", O_PROJ, layer.kv_heads, shape.head_dim * per_group, group),
        Kind("ffn", DOWN_PROJ, layer.ffn, 1, channel),
    )


def prune_block(setting: Setting, index: int, kind: Kind, kept: torch.Tensor) -> dict[str, torch.Tensor]:
    """A block's tensors for the units that stay [k], weights as they were; empty when none stays."""
    kept, none = kept.sort().values, kept[:0]
    if kind.name == "ffn":
        return prune_ffn(setting.layers[index], Selection(none, none, kept))
    heads = rows(kept, setting.shape.layer.heads_per_group)
    return prune_attention(setting.shape, setting.layers[index], Selection(kept, heads, none))


def widened(weight: torch.Tensor, kept: torch.Tensor, kind: Kind) -> torch.Tensor:
    """[D, n]: columns of an output projection for units `kept` in their places, zeros in the others."""
    full = weight.new_zeros(len(weight), kind.units * kind.columns)
    full[:, rows(kept, kind.columns)] = weight
    return full


class Stream:
    """The residual stream of the calibration windows, moved on block by block.

    Blocks differ from the dense ones in their output projections alone, here [D, n] with columns of zeros
    for units that are gone: what these read is computed once where half a GiB holds it.
    """

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._parts = [setting.embed(tokens) for tokens in setting.fit.split(_ROWS)]
        self._read: list[torch.Tensor] = []

    @torch.inference_mode()
    def gram(self, index: int, kind: Kind) -> torch.Tensor:
        """[n, n] float64: mean second moment of what a dense block's output projection reads here."""
        columns, tokens = kind.units * kind.columns, sum(part[..., 0].numel() for part in self._parts)
        gram, stays = Gram(columns), 4 * columns * tokens <= _CACHED
        self._read = []
        for part in self._parts:
            context = self._context(index, kind, part)
            gram.add_batch(context)
            if stays:
                self._read.append(context)
        return gram.finalize()

    @torch.inference_mode()
    def advance(self, index: int, kind: Kind, projection: torch.Tensor) -> None:
        """Past the block that `gram` was last asked for, with another output projection [D, n]."""
        changed = {**self._setting.layers[index], f"{kind.output}.weight": projection}
        runner = self._setting.runner.at(index)
        contexts = self._read or (self._context(index, kind, part) for part in self._parts)
        self._parts = [
            runner.finish(kind.name, changed, part, read)
            for part, read in zip(self._parts, contexts, strict=True)
        ]
        self._read = []

    def _context(self, index: int, kind: Kind, part: torch.Tensor) -> torch.Tensor:
        runner = self._setting.runner.at(index)
        return runner.context(kind.name, self._setting.layers[index], part)
