"""Tiny random checkpoints of every family, and transformers' own model of each as the reference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lathe.artefact.plan import LayerShape, Plan
from lathe.compressor.export import Export
from lathe.compressor.export.layout import pruned_tensors
from lathe.compressor.model.checkpoint import Checkpoint, open_checkpoint
from lathe.compressor.model.families import Family, locate_tensors
from lathe.compressor.model.names import DOWN_PROJ, O_PROJ, layer_prefix
from lathe.compressor.model.pruning import ImportanceRanking, prune_attention, prune_ffn, select
from support.tiny_llama import CONFIG, FFN, HEADS, KV_HEADS, LLAMA3_ROPE, PLANS, VARIANTS

FULL = ["full_attention"]
SCALED_WHERE_FULL = {
    "full_attention": {
        "rope_type": "yarn",
        "rope_theta": 5e5,
        "factor": 8.0,
        "original_max_position_embeddings": 64,
    },
    "sliding_attention": {"rope_type": "default", "rope_theta": 5e5},
}
CASES: dict[str, dict[str, Any]] = {
    **{f"llama, {name}": {"model_type": "llama", **changes} for name, changes in VARIANTS.items()},
    "mistral": {"model_type": "mistral", "sliding_window": None},
    "mistral, window": {"model_type": "mistral", "sliding_window": 16},
    "mistral, window of full length": {"model_type": "mistral", "sliding_window": 512},
    "qwen2": {"model_type": "qwen2"},
    "qwen2, tied": {"model_type": "qwen2", "tie_word_embeddings": True, "rope_parameters": LLAMA3_ROPE},
    "qwen2, window": {
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 16,
        "max_window_layers": 2,
    },
    "qwen3": {"model_type": "qwen3"},
    "qwen3, biased": {"model_type": "qwen3", "attention_bias": True, "tie_word_embeddings": True},
    "phi3": {"model_type": "phi3"},
    "phi3, partly rotated, window": {
        "model_type": "phi3",
        "partial_rotary_factor": 0.75,
        "sliding_window": 16,
        "head_dim": 32,
        "hidden_size": 256,
    },
    "smollm3": {"model_type": "smollm3", "no_rope_layers": [1, 0, 1, 1]},
    "smollm3, biased": {
        "model_type": "smollm3",
        "no_rope_layers": [0, 1, 1, 0],
        "attention_bias": True,
        "mlp_bias": True,
    },
    "olmo2": {"model_type": "olmo2"},
    "olmo2, biased": {"model_type": "olmo2", "attention_bias": True, "tie_word_embeddings": True},
    "olmo3": {"model_type": "olmo3", "sliding_window": 16, "rope_parameters": SCALED_WHERE_FULL},
    "gemma2": {"model_type": "gemma2", "sliding_window": 16, "query_pre_attn_scalar": 24},
    "gemma2, low caps, untied": {
        "model_type": "gemma2",
        "attn_logit_softcapping": 3.0,
        "final_logit_softcapping": 2.0,
        "tie_word_embeddings": False,
        "sliding_window": 16,
        "attention_bias": True,
    },
    "gemma3_text": {
        "model_type": "gemma3_text",
        "sliding_window": 16,
        "layer_types": ["sliding_attention"] * 3 + FULL,
    },
    "gemma3_text, window of full length": {
        "model_type": "gemma3_text",
        "sliding_window": 512,
        "layer_types": ["sliding_attention"] * 3 + FULL,
    },
    "mixtral": {"model_type": "mixtral", "num_local_experts": 4, "sliding_window": 16},
    "qwen3_moe": {
        "model_type": "qwen3_moe",
        "num_experts": 6,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": FFN,
    },
    "qwen3_moe, normalised": {
        "model_type": "qwen3_moe",
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": FFN,
        "norm_topk_prob": True,
        "attention_bias": True,
    },
    "gpt_oss": {
        "model_type": "gpt_oss",
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 16,
        "rope_parameters": {**SCALED_WHERE_FULL["full_attention"], "truncate": False},
    },
    "gpt_oss, low limit, unscaled": {
        "model_type": "gpt_oss",
        "num_local_experts": 6,
        "num_experts_per_tok": 3,
        "sliding_window": 16,
        "swiglu_limit": 0.5,
        "swiglu_alpha": 1.2,
        "layer_types": ["sliding_attention"] * 3 + FULL,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        "attention_bias": False,
    },
    "gpt_neox": {"model_type": "gpt_neox", "hidden_size": 256, "head_dim": 32, "rotary_pct": 0.5},
    "gpt_neox, one after the other": {
        "model_type": "gpt_neox",
        "hidden_size": 256,
        "head_dim": 32,
        "rotary_pct": 0.25,
        "use_parallel_residual": False,
        "attention_bias": False,
        "tie_word_embeddings": True,
        "rope_scaling": {"rope_type": "linear", "factor": 4.0},
    },
    "opt": {"model_type": "opt", "hidden_size": 256, "ffn_dim": FFN},
}
"""Settings beside `CONFIG`, by a name that begins with the family's."""
FIRST = {str(settings["model_type"]): case for case, settings in reversed(CASES.items())}
"""One case of every family."""
TIED = {"untied": False, "tied": True}
STORED = {"one file": "50GB", "shards": "40KB"}
SOME_PLANS = ("dense", "groups", "heads per group", "no attention first", "mixed")


def random_model(case: str, **changes: Any) -> Any:
    """Transformers' own, every parameter random, norms and biases too."""
    settings = CONFIG | {"max_position_embeddings": 512} | CASES[case] | changes
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings), dtype=torch.float32).eval()
    assert type(model).__module__.startswith("transformers.models.")
    generator = torch.Generator().manual_seed(0)
    gain = 0.0 if "gemma" in settings["model_type"] else 1.0
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(gain + noise * 0.3 if "norm" in name else noise * 0.1)
    return model


def family_checkpoint(directory: Path, case: str, shard: str = "50GB", **changes: Any) -> Checkpoint:
    """A random dense checkpoint as transformers saves it. shard: the most that one of its files holds."""
    random_model(case, **changes).save_pretrained(directory, max_shard_size=shard)
    (directory / "tokenizer.json").write_text('{"version": "1.0"}')
    return open_checkpoint(str(directory))


def stored_checkpoint(directory: Path, family: str, tied: str, stored: str, **changes: Any) -> Checkpoint:
    """A random model of a family, as `TIED` and `STORED` say."""
    settings = changes | {"tie_word_embeddings": TIED[tied]}
    return family_checkpoint(directory, FIRST[family], STORED[stored], **settings)


def planned(source: Checkpoint, name: str) -> Plan:
    """A plan of `PLANS`; where every query head has its own KV head, with as many of these.

    Of experts, all plans but the dense one leave some out, in every layer another number.
    """
    plan, shape = PLANS[name], source.shape
    if shape.layer.kv_heads != KV_HEADS:
        plan = Plan(tuple(LayerShape(layer.query_heads, layer.query_heads, layer.ffn) for layer in plan))
    counts = [shape.experts - i % (shape.experts - shape.experts_per_token + 1) for i in range(len(plan))]
    if name != "dense" and shape.experts:
        layers = zip(plan, counts, strict=True)
        plan = Plan(tuple(replace(layer, experts=n if layer.ffn else 0) for layer, n in layers))
    return plan.with_experts(shape.experts)


def rounded_blocks(plan: Plan, head_bits: int = 8) -> Plan:
    """The plan with blocks in 8 and 4 bits by turns, layer 1 as it is, and no attention in layer 2."""
    bits = [(8, 4), (0, 0), (0, 8), (4, 0)]
    layers = [replace(plan[2], query_heads=0, kv_heads=0) if i == 2 else plan[i] for i in range(4)]
    pairs = zip(layers, bits, strict=True)
    return Plan(tuple(replace(p, attention_bits=a, ffn_bits=f) for p, (a, f) in pairs), head_bits)


def zeroed(source: Checkpoint, subnet: Plan) -> Any:
    """Transformers' own model of a checkpoint, made equal to the subnet by zeroing what that omits.

    Soft caps need its eager attention, which 5.19 does not choose by itself.
    """
    capped = {"attn_implementation": "eager"} if source.config.get("attn_logit_softcapping") else {}
    model = AutoModelForCausalLM.from_pretrained(source.path, dtype=torch.float32, **capped).eval()
    assert type(model).__module__.startswith("transformers.models.")
    family, head_dim = source.family, source.shape.head_dim
    stored = locate_tensors(family, source.shape)
    with torch.no_grad():
        for index, shape in enumerate(subnet):
            prefix = layer_prefix(index)
            o = model.get_submodule(stored[f"{prefix}{O_PROJ}.weight"].name.removesuffix(".weight"))
            kept = torch.zeros(source.shape.layer.kv_heads, source.shape.layer.heads_per_group, head_dim)
            kept[: shape.kv_heads, : shape.heads_per_group] = 1
            o.weight.mul_(kept.flatten())
            _without_bias(o, shape.kv_heads)
            if source.shape.experts:
                _without_experts(model.get_submodule(f"{prefix}mlp"), shape)
            else:
                place = stored[f"{prefix}{DOWN_PROJ}.weight"]
                down = model.get_submodule(place.name.removesuffix(".weight"))
                down.weight[:, shape.ffn :] = 0
                _without_bias(down, shape.ffn)
            if source.shape.qk_norm_whole and shape.kv_heads:
                _leave_to(model, family, index, {"q": kept, "k": kept[:, :1]})
    return model


def _without_experts(mlp: Any, shape: LayerShape) -> None:
    """Make an FFN one of the first experts, which have the first channels."""
    experts = mlp.experts
    per_channel = experts.down_proj.mT if hasattr(experts, "down_proj_bias") else experts.down_proj
    per_channel[..., shape.ffn :] = 0
    if not shape.ffn and hasattr(experts, "down_proj_bias"):
        experts.down_proj_bias.zero_()
    router = mlp.router if hasattr(mlp, "router") else mlp.gate
    for _, parameter in router.named_parameters():
        parameter.data = parameter.data[: shape.experts or None]  # logits of others are -inf


def _without_bias(module: Any, present: int) -> None:
    if module.bias is not None and not present:
        module.bias.zero_()


def _leave_to(model: Any, family: Family, index: int, kept: dict[str, torch.Tensor]) -> None:
    """Make norms of all heads together norms of those that are kept.

    Others are nothing in their mean, which is over as many as there were.
    """
    for part, mask in kept.items():
        attention = model.get_submodule(f"{layer_prefix(index)}self_attn")
        projection, norm = (attention.get_submodule(f"{part}_{name}") for name in ("proj", "norm"))
        projection.weight.mul_(mask.flatten()[:, None])
        if projection.bias is not None:
            projection.bias.mul_(mask.flatten())
        share = float(mask.mean())
        norm.weight.mul_(share**0.5)
        norm.variance_epsilon *= share


def first_of_each(source: Checkpoint, subnet: Plan) -> Export:
    """The job of a subnet that keeps the first groups, heads and channels of each layer, by our surgery."""
    widths = source.shape.layer
    heads = torch.arange(HEADS).view(widths.kv_heads, -1)
    channels = torch.arange(source.shape.ffn_channels(widths)).unflatten(0, (-1, widths.ffn))
    order = ImportanceRanking(
        torch.arange(widths.kv_heads), heads, channels, torch.arange(source.shape.experts)
    )
    tensors: dict[str, torch.Tensor] = {}
    for index, shape in enumerate(subnet):
        dense, kept = source.layer(index), select(order, shape)
        layer = prune_attention(source.shape, dense, kept) | prune_ffn(dense, kept)
        tensors |= {layer_prefix(index) + name: value for name, value in layer.items()}
    return Export(source, subnet, lambda name: tensors[name] if name in tensors else source.tensor(name))


def shapes_of(source: Checkpoint, subnet: Plan) -> dict[str, tuple[int, ...]]:
    return dict(pruned_tensors(source.shape, subnet))


__all__ = [
    "CASES",
    "FIRST",
    "SOME_PLANS",
    "STORED",
    "TIED",
    "family_checkpoint",
    "first_of_each",
    "planned",
    "rounded_blocks",
    "shapes_of",
    "stored_checkpoint",
    "zeroed",
]
