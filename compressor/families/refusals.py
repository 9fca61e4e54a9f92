"""Settings of a config.json that change what a model computes, and that our models do not have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compressor.errors import UserError

WINDOW_SETTINGS = ("sliding_window", "use_sliding_window", "max_window_layers", "layer_types")
_OURS = ("qkv_bias", "qk_norm", "no_rope_layers", "norm_bias", "learned_positions")
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
    "num_experts": (0, 1),
    "num_local_experts": (0, 1),
}
"""Settings by name, and the values besides null that leave a model as it is without them."""


def refuse_other_maths(config: Mapping[str, Any], model_type: str, ropes: tuple[str, ...]) -> None:
    """Refuse what would silently become another model. ropes: the kinds of rotary positions that are taken.

    Raises:
        UserError: names the setting and its value.
    """
    for name, neutral in _NEUTRAL.items():
        if config.get(name) is not None and config[name] not in neutral:
            raise _unsupported(name, config[name], model_type)
    rope = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ropes or any(isinstance(value, dict) for value in rope.values()):
        raise UserError(
            f"config.json asks for rotary positions of type `{kind}`, or of several types",
            f"Supported for `{model_type}`: one of {', '.join(ropes)}.",
        )
    if rope.get("partial_rotary_factor", 1) != 1:
        raise _unsupported("partial_rotary_factor", rope["partial_rotary_factor"], model_type)
    if _slides(config):
        raise UserError(
            f"config.json asks for sliding-window attention over {config['sliding_window']} tokens, which is "
            "not supported",
            "Lower `max_position_embeddings` to that, where contexts are no longer: the window is then never "
            "in use.",
        )


def refuse_others_settings(config: Mapping[str, Any], own: Mapping[str, Any], model_type: str) -> None:
    """Refuse settings of our model that a family does not have itself (`own`): it would be read as another.

    Raises:
        UserError: names the setting and its value.
    """
    for name in _OURS:
        if config.get(name) not in (None, False, own.get(name)):
            raise _unsupported(name, config[name], model_type)


def _unsupported(name: str, value: Any, model_type: str) -> UserError:
    return UserError(f"config.json sets `{name}` to {value}, which is not supported for `{model_type}`")


def _slides(config: Mapping[str, Any]) -> bool:
    """Whether a layer attends to less than the longest context."""
    window = config.get("sliding_window")
    if not window or not config.get("use_sliding_window", True):
        return False
    if window >= int(config.get("max_position_embeddings") or 2048):
        return False
    types = config.get("layer_types")
    if types:
        return "sliding_attention" in types
    return int(config.get("max_window_layers") or 0) < int(config.get("num_hidden_layers") or 1)
