"""The tensors of a GGUF file: what each is made of, in the order of the file.

What a host has no form for is written so that it computes the same: an FFN that is left out becomes 32
channels of zeros, attention that is left out one head of zeros where layers cannot be without it, and FFNs
are padded with channels of zeros to multiples of 32, the block of most quantized types.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from lathe.artefact.plan import BlockKind, LayerShape
from lathe.compressor.export.gguf.hosts import Host
from lathe.compressor.export.gguf.subnet import Subnet
from lathe.compressor.export.layout import absent_modules
from lathe.compressor.model.names import (
    EMBEDDING,
    FINAL_NORM,
    K_PROJ,
    LM_HEAD,
    Q_PROJ,
    V_PROJ,
    layer_prefix,
    of_attention,
)
from lathe.compressor.model.tensor_shapes import block_tensors, first_tensors, last_tensors

BLOCK = 32
"""Values of a row that most quantized types quantize together."""
_TOP = {EMBEDDING: "token_embd", FINAL_NORM: "output_norm", LM_HEAD: "output"}
_FUSED, _FUSED_NAME = (Q_PROJ, K_PROJ, V_PROJ), "attn_qkv"
FREQUENCIES = "rope_freqs.weight"


@dataclass(frozen=True)
class Part:
    """Rows of a tensor.

    Attributes:
        source: Our name of the tensor that they are; behind it come rows and columns of zeros.
        dims: The dimensions in the file.
        heads: The heads whose rows are put in llama.cpp's order of rotary positions, or 0.
        offset: What is added.
        constant: The values of rows that no tensor has.
    """

    source: str
    dims: tuple[int, ...]
    heads: int = 0
    offset: float = 0.0
    constant: torch.Tensor | None = None

    @property
    def order(self) -> torch.Tensor | None:
        """Where each row is in our tensor: halves of a head are interleaved in the file."""
        if not self.heads:
            return None
        return torch.arange(self.dims[0]).view(self.heads, 2, -1).mT.reshape(-1)


@dataclass(frozen=True)
class FileTensor:
    """A tensor of the file.

    Attributes:
        name: What it is called there.
        parts: What it is made of, one under the other.
        block: The layer's number and block of a matrix that belongs to one.
    """

    name: str
    parts: tuple[Part, ...]
    block: tuple[int, BlockKind] | None = None

    @property
    def dims(self) -> tuple[int, ...]:
        """Rows and columns, or the number of values."""
        return (sum(part.dims[0] for part in self.parts), *self.parts[0].dims[1:])


def written_widths(host: Host, model: Subnet) -> list[LayerShape]:
    """Returns the widths of the layers in the file."""
    return [_written(host, index, layer.unrounded) for index, layer in enumerate(model.plan)]


def _written(host: Host, index: int, layer: LayerShape) -> LayerShape:
    needs_attention = not host.attention_free or index == 0
    heads = layer.heads if layer.kv_heads or not needs_attention else (1, 1)
    return LayerShape(*heads, max(BLOCK, -(-layer.ffn // BLOCK) * BLOCK))


def file_tensors(host: Host, model: Subnet) -> Iterator[FileTensor]:
    """Yields the tensors of a file, that of rotary positions first."""
    if (scaled := rope_divisors(model)) is not None:
        yield FileTensor(FREQUENCIES, (Part(FREQUENCIES, tuple(scaled.shape), constant=scaled),))
    for name, dims in first_tensors(model.shape):
        yield _outside(host, name, dims)
    for index, (has, layer) in enumerate(zip(model.plan, written_widths(host, model), strict=True)):
        yield from _layer(host, model, index, has, layer)
    for name, dims in last_tensors(model.shape):
        yield _outside(host, name, dims)


def _outside(host: Host, name: str, dims: tuple[int, ...]) -> FileTensor:
    module, _, kind = name.rpartition(".")
    offset = host.norm_offset if module == FINAL_NORM else 0.0
    return FileTensor(f"{_TOP[module]}.{kind}", (Part(name, dims, offset=offset),))


def _layer(
    host: Host, model: Subnet, index: int, has: LayerShape, written: LayerShape
) -> Iterator[FileTensor]:
    names = {ours: theirs for theirs, ours in host.modules.items()}
    absent, left_out = absent_modules(has), absent_modules(written)
    heads = {Q_PROJ: written.query_heads, K_PROJ: written.kv_heads} if host.interleaved else {}
    fused: list[Part] = []
    for name, dims in block_tensors(replace(model.shape, layer=written)):
        module, _, kind = name.rpartition(".")
        if module in left_out:
            continue
        norm = module.endswith("norm") and kind == "weight"
        part = Part(
            layer_prefix(index) + name,
            dims,
            heads.get(module, 0),
            host.norm_offset if norm else 0.0,
            torch.full(dims, float(norm)) if module in absent else None,
        )
        block: tuple[int, BlockKind] = (index, "attention" if of_attention(name) else "ffn")
        if host.fused and module in _FUSED:
            fused.append(part)
            if module == _FUSED[-1]:
                yield FileTensor(f"blk.{index}.{_FUSED_NAME}.{kind}", tuple(fused), block)
        else:
            yield FileTensor(f"blk.{index}.{names[module]}.{kind}", (part,), block)


def rope_divisors(model: Subnet) -> torch.Tensor | None:
    """Returns what Llama 3.1 and later divide the frequencies by, float32 [H / 2]; None for other models.

    As transformers computes them (`_compute_llama3_parameters`).
    """
    rope = model.rope
    if rope["rope_type"] != "llama3":
        return None
    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    factor, context = float(rope["factor"]), float(rope["original_max_position_embeddings"])
    dims = torch.arange(0, model.shape.head_dim, 2, dtype=torch.float64) / model.shape.head_dim
    wavelengths = 2 * math.pi * float(rope["rope_theta"]) ** dims
    share = ((context / wavelengths - low) / (high - low)).clamp(0, 1)
    return (1 / ((1 - share) / factor + share)).float()
