"""Settings of a config.json that change what a model computes, and that our models do not have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lathe.artefact.errors import UserError

_OURS = (
    "qkv_bias",
    "qk_norm",
    "qk_norm_whole",
    "no_rope_layers",
    "norm_bias",
    "norm_after",
    "norm_offset",
    "learned_positions",
    "windows",
    "window_rope_parameters",
    "parallel_blocks",
    "experts",
    "attention_sinks",
    "router_bias",
    "swiglu_alpha",
    "swiglu_limit",
    "per_layer_config",
    "dropped_blocks",
)
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "partial_rotary_factor": (1,),
    "attn_logit_softcapping": (),
    "final_logit_softcapping": (),
    "query_pre_attn_scalar": (),
    "attention_multiplier": (),
    "attention_chunk_size": (),
    "clip_qkv": (),
    "use_qk_norm": (False,),
    "embedding_multiplier": (1,),
    "residual_multiplier": (1,),
    "logits_scaling": (1,),
    "logit_scale": (1,),
    "scale_emb": (1,),
    "is_causal": (True,),
    "use_bidirectional_attention": (False,),
    "num_experts": (0, 1),
    "num_local_experts": (0, 1),
}
"""Settings by name, and the values besides null that leave a model as it is without them."""


def refuse_other_maths(
    config: Mapping[str, Any], own: Mapping[str, Any], model_type: str, ropes: tuple[str, ...], partial: bool
) -> None:
    """Refuses what would silently become another model.

    Args:
        config: of the model.
        own: settings that the family has itself.
        model_type: what the model is called in errors.
        ropes: the kinds of rotary positions that are taken.
        partial: whether only a part of each head may be rotated.

    Raises:
        UserError: names the setting and its value.
    """
    for name, neutral in _NEUTRAL.items():
        if config.get(name) is not None and config[name] not in neutral and name not in own:
            if name == "partial_rotary_factor" and partial:
                continue
            raise _unsupported(name, config[name], model_type)
    for rope in (rope_of(config), config.get("window_rope_parameters") or {}):
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind not in ropes or any(isinstance(value, dict) for value in rope.values()):
            raise UserError(
                f"config.json asks for rotary positions of type `{kind}`, or of several types",
                f"Supported for `{model_type}`: one of {', '.join(ropes)}.",
            )
        if rope.get("partial_rotary_factor", 1) != 1 and not partial:
            raise _unsupported("partial_rotary_factor", rope["partial_rotary_factor"], model_type)


def rope_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the rotary parameters of a config; as for transformers, the old name goes first."""
    return dict(config.get("rope_scaling") or config.get("rope_parameters") or {})


def refuse_others_settings(config: Mapping[str, Any], own: Mapping[str, Any], model_type: str) -> None:
    """Refuses settings of our model that a family does not have itself (`own`): it would be read as another.

    Raises:
        UserError: names the setting and its value.
    """
    for name in _OURS:
        if config.get(name) and config[name] != own.get(name):
            raise _unsupported(name, config[name], model_type)


def _unsupported(name: str, value: Any, model_type: str) -> UserError:
    return UserError(f"config.json sets `{name}` to {value}, which is not supported for `{model_type}`")
