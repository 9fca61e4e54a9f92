"""Tiny random Llamas, plans of every kind of unevenness, and an independent reference for their logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lathe.artefact.plan import LayerShape, Plan
from lathe.compressor.export import Export
from lathe.compressor.model.checkpoint import Checkpoint, open_checkpoint

torch.set_num_threads(1)  # models this small run many times slower on threads that share a busy machine

VOCAB, LAYERS, HEADS, KV_HEADS, HEAD_DIM, FFN = 120, 4, 8, 4, 16, 96
CONFIG: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "intermediate_size": FFN,
    "vocab_size": VOCAB,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "biased": {"attention_bias": True, "mlp_bias": True},
    "llama3 rope": {"rope_parameters": LLAMA3_ROPE},
}


def plan(*layers: tuple[int, int, int]) -> Plan:
    return Plan(tuple(LayerShape(*layer) for layer in layers))


DENSE = (HEADS, KV_HEADS, FFN)
PLANS = {
    "dense": plan(DENSE, DENSE, DENSE, DENSE),
    "ffn": plan(DENSE, (8, 4, 40), (8, 4, 7), (8, 4, 1)),
    "heads per group": plan((4, 4, 96), DENSE, (4, 4, 96), DENSE),
    "groups": plan((6, 3, 96), (2, 1, 96), DENSE, (4, 2, 96)),
    "no attention first": plan((0, 0, 96), DENSE, DENSE, DENSE),
    "no attention middle": plan(DENSE, DENSE, (0, 0, 96), DENSE),
    "no attention last": plan(DENSE, DENSE, DENSE, (0, 0, 96)),
    "no ffn first": plan((8, 4, 0), DENSE, DENSE, DENSE),
    "no ffn last": plan(DENSE, DENSE, DENSE, (8, 4, 0)),
    "whole layers": plan((0, 0, 0), DENSE, (0, 0, 0), DENSE),
    "last layer": plan(DENSE, DENSE, DENSE, (0, 0, 0)),
    "mixed": plan((0, 0, 33), (3, 3, 17), (0, 0, 0), (4, 2, 0)),
}


def dense_model(**changes: Any) -> LlamaForCausalLM:
    """A Llama whose every parameter is random, norms and biases too."""
    generator = torch.Generator().manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**CONFIG | changes)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + noise * 0.3 if "norm" in name else noise * 0.1)
    return model


def checkpoint(directory: Path, **changes: Any) -> Checkpoint:
    """A random dense checkpoint on disk, with a tokenizer file."""
    dtype = changes.pop("dtype", torch.float32)
    dense_model(**changes).to(dtype).save_pretrained(directory)
    (directory / "tokenizer.json").write_text('{"version": "1.0"}')
    return open_checkpoint(str(directory))


def pruned(source: Checkpoint, subnet: Plan) -> Export:
    """Returns the export of a subnet that keeps the first groups, heads and channels of each layer."""
    head_dim = source.shape.head_dim

    def tensor(name: str) -> torch.Tensor:
        value, rows = source.tensor(name), None
        if not name.startswith("model.layers."):
            return value
        module, layer = name.split(".")[4], subnet[int(name.split(".")[2])]
        if module in ("q_proj", "o_proj"):
            rows = query_rows(layer, head_dim)
        elif module in ("k_proj", "v_proj"):
            rows = torch.arange(layer.kv_heads * head_dim)
        elif module in ("gate_proj", "up_proj", "down_proj"):
            rows = torch.arange(layer.ffn)
        if rows is None or (module in ("o_proj", "down_proj") and name.endswith(".bias")):
            return value
        return value[:, rows] if module in ("o_proj", "down_proj") else value[rows]

    return Export(source, subnet, tensor)


def query_rows(layer: LayerShape, head_dim: int) -> torch.Tensor:
    """Rows of q_proj that stay: the first heads of each of the first groups."""
    per_group, dense_per_group = layer.heads_per_group, HEADS // KV_HEADS
    heads = [k * dense_per_group + j for k in range(layer.kv_heads) for j in range(per_group)]
    return torch.tensor([h * head_dim + r for h in heads for r in range(head_dim)], dtype=torch.long)


def reference(source: Checkpoint, subnet: Plan) -> LlamaForCausalLM:
    """The stock dense model made equal to the subnet by zeroing what the subnet omits."""
    model = LlamaForCausalLM(LlamaConfig(**source.config)).eval()
    model.load_state_dict({name: source.tensor(name) for name in source.names()}, strict=False)
    head_dim = source.shape.head_dim
    with torch.no_grad():
        for layer, shape in zip(model.model.layers, subnet.layers, strict=True):
            kept = torch.zeros(HEADS * head_dim)
            kept[query_rows(shape, head_dim)] = 1
            layer.self_attn.o_proj.weight.mul_(kept)
            layer.mlp.down_proj.weight[:, shape.ffn :] = 0
            if not shape.kv_heads and layer.self_attn.o_proj.bias is not None:
                layer.self_attn.o_proj.bias.zero_()
            if not shape.ffn and layer.mlp.down_proj.bias is not None:
                layer.mlp.down_proj.bias.zero_()
    return model


def tokens(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(1, VOCAB, shape, generator=torch.Generator().manual_seed(seed))
