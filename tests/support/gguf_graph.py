"""What llama.cpp computes of a GGUF file, in PyTorch, with its rules of how one is read.

It follows `deci.cpp`, `openelm.cpp`, `llama.cpp`, `qwen2.cpp` and `qwen3.cpp` in `src/models` of llama.cpp
0c1e57098, and `src/llama-model.cpp`. A test against llama.cpp itself is in `tests/on_llamacpp`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gguf
import torch

from lathe.artefact.gguf.file import open_gguf
from lathe.compressor.model.gguf.quantization import read_values

_INTERLEAVED = ("llama", "deci")
_UNEVEN = ("deci", "openelm")


class GgufGraph:
    """A GGUF file of one of these architectures, ready to run.

    Attributes:
        metadata: By key, without the architecture's name in front.
        tensors: Dequantized, float32, by their names in the file.
        types: The names of their types.
    """

    def __init__(self, path: Path) -> None:
        model = open_gguf(path)
        self.architecture = model.architecture
        self.metadata: dict[str, Any] = {
            key.removeprefix(f"{self.architecture}."): value for key, value in model.metadata.items()
        }
        self.tensors = {name: read_values(tensor).float() for name, tensor in model.tensors.items()}
        self.types = {
            name: gguf.GGMLQuantizationType(tensor.kind).name for name, tensor in model.tensors.items()
        }
        self._used: set[str] = set()

    def logits(self, tokens: torch.Tensor) -> torch.Tensor:
        """Returns the logits [S, V] after every token [S]; refuses a file with tensors that have no place."""
        embedding = self._take("token_embd.weight")
        value = embedding[tokens]
        for layer in range(self._number("block_count", 0)):
            value = self._layer(layer, value)
        head = embedding
        if self.architecture != "openelm" and "output.weight" in self.tensors:
            head = self._take("output.weight")
        found = self._norm(value, "output_norm.weight") @ head.T
        assert self._used == set(self.tensors), self._used ^ set(self.tensors)
        return found

    def _layer(self, layer: int, value: torch.Tensor) -> torch.Tensor:
        heads, kv_heads = (self._number(f"attention.head_count{kind}", layer) for kind in ("", "_kv"))
        channels, name = self._number("feed_forward_length", layer), f"blk.{layer}."
        if heads:
            normed = self._norm(value, f"{name}attn_norm.weight")
            attended = value + self._attention(name, normed, heads, kv_heads)
        else:
            assert layer, "heads are as wide as layer 0 says"
            assert self.architecture == "deci", "all others need attention"
            attended = value
        assert channels, "deci leaves out the attention of a layer without FFN"
        normed = self._norm(attended, f"{name}ffn_norm.weight")
        gate, up = (self._product(normed, f"{name}ffn_{part}", channels) for part in ("gate", "up"))
        inner = torch.nn.functional.silu(gate) * up
        return attended + self._product(inner, f"{name}ffn_down", value.shape[1])

    def _attention(self, name: str, value: torch.Tensor, heads: int, kv_heads: int) -> torch.Tensor:
        size = self._number("attention.key_length", 0)
        assert self._number("attention.value_length", 0) == self._number("rope.dimension_count", 0) == size
        if self.architecture == "openelm":
            fused = self._product(value, f"{name}attn_qkv", (heads + 2 * kv_heads) * size)
            q, k, v = fused.unflatten(1, (-1, size)).split([heads, kv_heads, kv_heads], 1)
        else:
            q, k, v = (
                self._product(value, f"{name}attn_{part}", count * size).unflatten(1, (-1, size))
                for part, count in (("q", heads), ("k", kv_heads), ("v", kv_heads))
            )
        if self.architecture in ("openelm", "qwen3"):
            q, k = self._norm(q, f"{name}attn_q_norm.weight"), self._norm(k, f"{name}attn_k_norm.weight")
        q, k = self._rotated(q), self._rotated(k)
        k, v = (part.repeat_interleave(heads // kv_heads, 1) for part in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q, k) / math.sqrt(size)
        future = torch.ones_like(scores[0], dtype=torch.bool).triu(1)
        shares = scores.masked_fill(future, -math.inf).softmax(-1)
        mixed = torch.einsum("hqk,khd->qhd", shares, v).flatten(1)
        return self._product(mixed, f"{name}attn_output", value.shape[1])

    def _rotated(self, value: torch.Tensor) -> torch.Tensor:
        """Rotates [S, heads, size]: neighbours (NORM) or the halves of a head (NEOX)."""
        size = value.shape[-1]
        theta = self.metadata["rope.freq_base"]
        frequencies = 1 / theta ** (torch.arange(0, size, 2, dtype=torch.float64) / size)
        if self.metadata.get("rope.scaling.type") == "linear":
            frequencies = frequencies / self.metadata["rope.scaling.factor"]
        if "rope_freqs.weight" in self.tensors:
            frequencies = frequencies / self._take("rope_freqs.weight").double()
        angles = torch.arange(len(value), dtype=torch.float64)[:, None, None] * frequencies
        cos, sin = angles.cos().float(), angles.sin().float()
        pairs = value.unflatten(-1, (-1, 2)) if self._neighbours else value.unflatten(-1, (2, -1)).mT
        first, second = pairs.unbind(-1)
        turned = torch.stack([first * cos - second * sin, first * sin + second * cos], -1)
        return (turned if self._neighbours else turned.mT).flatten(-2)

    @property
    def _neighbours(self) -> bool:
        return self.architecture in _INTERLEAVED

    def _number(self, key: str, layer: int) -> int:
        value = self.metadata[key]
        if isinstance(value, list):
            assert self.architecture in _UNEVEN, f"{self.architecture} reads layer 0's {key} alone"
            assert len(value) == self.metadata["block_count"]
            return int(value[layer])
        return int(value)

    def _product(self, value: torch.Tensor, name: str, rows: int) -> torch.Tensor:
        weight = self._take(f"{name}.weight")
        assert len(weight) == rows, f"{name} has {len(weight)} rows instead of {rows}"
        product = value @ weight.T
        return product + self._take(f"{name}.bias") if f"{name}.bias" in self.tensors else product

    def _norm(self, value: torch.Tensor, name: str) -> torch.Tensor:
        epsilon = self.metadata["attention.layer_norm_rms_epsilon"]
        return value * (value.square().mean(-1, keepdim=True) + epsilon).rsqrt() * self._take(name)

    def _take(self, name: str) -> torch.Tensor:
        self._used.add(name)
        return self.tensors[name]
