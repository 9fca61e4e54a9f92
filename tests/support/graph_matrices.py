"""The matrices of a quantized ONNX graph, dequantized, under the names of the checkpoint."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from onnx import numpy_helper


def stored_tensors(graph: Path) -> dict[str, torch.Tensor]:
    """All weights and constants of a graph, by name."""
    model = onnx.load(graph)
    return {w.name: torch.tensor(numpy_helper.to_array(w)) for w in model.graph.initializer}


def dequantized(stored: dict[str, torch.Tensor], name: str, columns: int, bits: int) -> torch.Tensor:
    """A matrix of the graph as [rows, columns], of experts one below the other."""
    codes = stored.get(f"{name}.codes.blocks", stored.get(f"{name}.codes"))
    scales = stored[f"{name}.scales"]
    assert codes is not None
    codes, scales = codes.reshape(scales.shape[:-1].numel(), -1), scales.flatten(0, -2)
    codes = torch.stack([codes & 15, codes >> 4], -1).flatten(1) if bits == 4 else codes
    values = (codes.float() - 2 ** (bits - 1)) * scales.repeat_interleave(
        codes.shape[1] // scales.shape[1], 1
    )
    return values[:, :columns]


def matrices(
    stored: dict[str, torch.Tensor], prefix: str, layer: dict[str, torch.Tensor], bits: int
) -> dict[str, torch.Tensor]:
    """The matrices of a layer as the graph has them, under the names of the checkpoint."""
    found: dict[str, torch.Tensor] = {}
    for name in (f"{prefix}qkv", *(prefix + key.removesuffix(".weight") for key in layer)):
        if f"{name}.scales" not in stored:
            continue
        parts = [f"self_attn.{part}_proj.weight" for part in "qkv"] if name.endswith("qkv") else []
        names = parts or [f"{name.removeprefix(prefix)}.weight"]
        values = dequantized(stored, name, layer[names[0]].shape[1], bits)
        found |= zip(names, values.split([len(layer[n]) for n in names]), strict=True)
    if f"{prefix}experts.down.scales" in stored:
        gate, down = layer["mlp.gate_proj.weight"], layer["mlp.down_proj.weight"]
        count = len(layer["mlp.router.weight"])
        channels = len(gate) // count
        pairs = dequantized(stored, f"{prefix}experts.gate_up", gate.shape[1], bits)
        pairs = pairs.unflatten(0, (count, -1, 2))[:, :channels]
        downs = dequantized(stored, f"{prefix}experts.down", down.shape[1] // count, bits)
        found["mlp.gate_proj.weight"] = pairs[:, :, 0].flatten(0, 1)
        found["mlp.up_proj.weight"] = pairs[:, :, 1].flatten(0, 1)
        found["mlp.down_proj.weight"] = downs.unflatten(0, (count, -1)).transpose(0, 1).flatten(1)
    return found
