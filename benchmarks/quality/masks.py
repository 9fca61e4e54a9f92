"""Masks inside heads: which RoPE pairs and FFN channels of a layer stay, what they cost, and its weights.

A head keeps some of its dims (arXiv 2409.17372, Sec. 3.2: one mask for the rows of q, k, v and the columns
of o). Dims i and i + H/2 rotate together, so they stay or go together, with their frequency; a KV head and
the query heads that read it share a mask. The softmax scale stays that of H dims. Zeroed rows and columns
then compute what narrow ones would, and the narrow ones are what is counted.

Shapes: D model width, N query heads, K KV heads, H head dim, F FFN channels.
Where queries and keys are normed, a narrow head's norm is taken over H dims, as the zeros say.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import torch

from lathe.artefact.plan import ModelShape
from lathe.compressor.model.block_runner import Weights
from lathe.compressor.model.names import (
    ATTENTION_NORM,
    ATTENTION_OUTPUT_NORM,
    DOWN_PROJ,
    FFN_NORM,
    FFN_OUTPUT_NORM,
    GATE_PROJ,
    K_NORM,
    K_PROJ,
    O_PROJ,
    Q_NORM,
    Q_PROJ,
    UP_PROJ,
    V_PROJ,
)
from lathe.compressor.reconstruction.admm import admm
from lathe.compressor.statistics import LayerStatistics

_NORMS = (ATTENTION_NORM, ATTENTION_OUTPUT_NORM, FFN_NORM, FFN_OUTPUT_NORM, Q_NORM, K_NORM)


@dataclass(frozen=True)
class LayerMask:
    """pairs: of each KV head, the kept pairs, indices below H/2. channels: kept FFN channels. Ascending.

    alive: False for a layer that is left out as a whole; what it would keep is remembered.
    """

    pairs: tuple[torch.Tensor, ...]
    channels: torch.Tensor
    alive: bool = True

    def parameters(self, shape: ModelShape) -> int:
        """True count of what a pruned layer stores, norms and biases included."""
        if not self.alive:
            return 0
        layer, d = shape.layer, shape.hidden_size
        kv = layer.kv_heads * shape.head_dim - 2 * sum(map(len, self.pairs))
        q, channels = kv * layer.heads_per_group, layer.ffn - len(self.channels)
        gone = 2 * d * (q + kv) + 3 * d * channels
        gone += (q + 2 * kv if shape.attention_bias else 0) + (2 * channels if shape.mlp_bias else 0)
        return shape.decoder_parameters([layer]) - gone

    def dims(self, shape: ModelShape) -> tuple[torch.Tensor, torch.Tensor]:
        """Bool masks over the rows of q [N*H] and of k and v [K*H]."""
        half = torch.zeros(len(self.pairs), shape.head_dim // 2, dtype=torch.bool)
        for head, kept in enumerate(self.pairs):
            half[head, kept] = True
        whole = torch.cat([half, half], 1)
        return whole.repeat_interleave(shape.layer.heads_per_group, 0).flatten(), whole.flatten()

    def weights(self, shape: ModelShape, dense: Weights) -> dict[str, torch.Tensor]:
        """A layer that runs: attention of full size with zeros, the FFN pruned."""
        if not self.alive:
            return {}
        q, kv = self.dims(shape)
        pruned = {name: dense[f"{name}.weight"] for name in _NORMS if f"{name}.weight" in dense}
        for name, rows in ((Q_PROJ, q), (K_PROJ, kv), (V_PROJ, kv)):
            pruned[name] = dense[f"{name}.weight"] * rows[:, None]
        pruned[O_PROJ] = dense[f"{O_PROJ}.weight"] * q
        for name in (GATE_PROJ, UP_PROJ):
            pruned[name] = dense[f"{name}.weight"].index_select(0, self.channels)
        pruned[DOWN_PROJ] = dense[f"{DOWN_PROJ}.weight"].index_select(1, self.channels)
        return {f"{name}.weight": tensor for name, tensor in pruned.items()} | self._biases(q, kv, dense)

    def reconstructed(
        self, shape: ModelShape, dense: Weights, statistics: LayerStatistics
    ) -> dict[str, torch.Tensor]:
        """As `weights`, with o and down solved anew by the paper's ADMM (Theorem 3.1)."""
        pruned = self.weights(shape, dense)
        if not pruned:
            return pruned
        o, down, kept = f"{O_PROJ}.weight", f"{DOWN_PROJ}.weight", self.dims(shape)[0].nonzero()[:, 0]
        if len(kept) < dense[o].shape[1]:
            pruned[o] = torch.zeros_like(dense[o])
            pruned[o][:, kept] = admm(dense[o], statistics.attention, kept)
        if len(self.channels) < dense[down].shape[1]:
            pruned[down] = admm(dense[down], statistics.ffn, self.channels)
        return pruned

    def _biases(self, q: torch.Tensor, kv: torch.Tensor, dense: Weights) -> dict[str, torch.Tensor]:
        masked: dict[str, torch.Tensor | int] = {Q_PROJ: q, K_PROJ: kv, V_PROJ: kv, O_PROJ: 1}
        pruned = {f"{n}.bias": dense[f"{n}.bias"] * m for n, m in masked.items() if f"{n}.bias" in dense}
        for name in (GATE_PROJ, UP_PROJ, DOWN_PROJ):
            if (bias := dense.get(f"{name}.bias")) is not None:
                pruned[f"{name}.bias"] = bias if name == DOWN_PROJ else bias[self.channels]
        return pruned


@dataclass(frozen=True)
class Masks:
    """A subnet: a mask for every layer."""

    layers: tuple[LayerMask, ...]

    def parameters(self, shape: ModelShape) -> int:
        return sum(layer.parameters(shape) for layer in self.layers)

    @cached_property
    def key(self) -> str:
        """Equal for subnets that keep the same."""
        digest = hashlib.sha256()
        for layer in self.layers:
            for part in (*layer.pairs, layer.channels) if layer.alive else ():
                digest.update(part.numpy().tobytes() + b"|")
            digest.update(b"/")
        return digest.hexdigest()[:24]
