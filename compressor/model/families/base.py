"""Families: where a checkpoint has its tensors, and how its config gives the dimensions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lathe.artefact.errors import UserError
from lathe.artefact.plan import LayerShape, ModelShape
from lathe.artefact.registry import Registry
from lathe.compressor.model.families.experts import Stack
from lathe.compressor.model.families.refusals import refuse_other_maths, refuse_others_settings
from lathe.compressor.model.families.windows import WINDOW_SETTINGS, Slides, windows

_DIMENSIONS = ("hidden_size", "num_attention_heads", "vocab_size", "num_hidden_layers", "intermediate_size")


@dataclass(frozen=True, slots=True)
class Family:
    """A decoder family as data.

    Module paths are those of our exported model (`lathe.compressor.model.names`).

    Attributes:
        model_type: The Hugging Face model type.
        description: The names that people use for its models.
        exported_type: The model type of our uneven checkpoints.
        config_defaults: Values of its transformers config that differ from Llama's, used where a config.json
            is silent.
        derived: Computes settings of our model that follow from others, from the config with its defaults.
        config_overrides: Settings of our model that are the same for all checkpoints of the family: biases,
            norms of queries and keys.
        uses_sliding_window: Tells which layers have a sliding window; None if its models take no window.
        rope_types: The kinds of rotary positions with the same meaning in its config and in ours.
        partial_rotary: Whether its models read `partial_rotary_factor`.
        fused: Modules of its checkpoints that hold several of ours, stacked.
        interleaved: Modules of its checkpoints that hold several of ours, interleaved head by head.
        split_experts: Modules of ours that its checkpoints hold expert by expert, {e}.
        stacked: Tensors of ours that its checkpoints hold in one tensor for all experts.
        checkpoint_names: Module paths that its checkpoints spell differently, by ours.
        base_prefix: The prefix of its checkpoints' names that is left out where the base model was saved.
        name_aliases: Other spellings of names, and those of `checkpoint_names` that they stand for.
        position_offset: Rows of its learned positions that come before the first.
    """

    model_type: str
    description: str
    exported_type: str = "lathe_llama"
    config_defaults: Mapping[str, Any] = field(default_factory=dict)
    derived: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda _config: {}
    config_overrides: Mapping[str, Any] = field(default_factory=dict)
    uses_sliding_window: Slides | None = None
    rope_types: tuple[str, ...] = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")
    partial_rotary: bool = False
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    interleaved: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    split_experts: Mapping[str, str] = field(default_factory=dict)
    stacked: Mapping[str, Stack] = field(default_factory=dict)
    checkpoint_names: Mapping[str, str] = field(default_factory=dict)
    base_prefix: str = "model"
    name_aliases: Mapping[str, str] = field(default_factory=dict)
    position_offset: int = 0

    def read(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a config.json document as one of our model.

        Defaults are filled in and the family's settings added. Sliding windows are given by layer, and none
        where they are never in use.

        Raises:
            UserError: it sets something that changes what the model computes and that ours does not have.
        """
        whole = {**self.config_defaults, **config}
        try:
            own = {**self.derived(whole), **self.config_overrides}
            refuse_other_maths(whole | own, own, self.model_type, self.rope_types, self.partial_rotary)
            own |= windows(whole | own, self.uses_sliding_window)
            refuse_others_settings(config, own, self.model_type)
        except KeyError as error:
            raise UserError(f"config.json has no {error}", "Is this a complete checkpoint?") from None
        except (TypeError, ValueError, AttributeError) as error:
            raise UserError(f"config.json has an impossible setting: {error}") from None
        return {k: v for k, v in (whole | own).items() if k not in WINDOW_SETTINGS}

    def shape(self, config: Mapping[str, Any]) -> ModelShape:
        """Returns the dimensions from a document that `read` gave.

        Raises:
            UserError: a dimension is missing or impossible.
        """
        try:
            shape = _shape(config)
        except KeyError as error:
            raise UserError(f"config.json has no {error}", "Is this a complete checkpoint?") from None
        except (TypeError, ValueError, ArithmeticError, UserError) as error:
            raise UserError(f"config.json has an impossible dimension: {error}") from None
        for name in _DIMENSIONS:
            if int(config[name]) < 1:
                raise UserError(
                    f"config.json has a dimension of {config[name]} (`{name}`)",
                    "Is this a complete checkpoint?",
                )
        if shape.head_dim < 1:
            raise UserError(f"config.json has heads of {shape.head_dim} dimensions", "Mend it there.")
        return shape


def _shape(config: Mapping[str, Any]) -> ModelShape:
    hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
    kv_heads = int(config.get("num_key_value_heads") or heads)
    experts = int(config.get("experts") or 0)
    return ModelShape(
        hidden_size=hidden,
        vocab_size=int(config["vocab_size"]),
        head_dim=int(config.get("head_dim") or hidden // heads),
        tied_embeddings=bool(config.get("tie_word_embeddings", False)),
        num_layers=int(config["num_hidden_layers"]),
        layer=LayerShape(heads, kv_heads, int(config["intermediate_size"]), experts),
        attention_bias=bool(config.get("attention_bias", False)),
        mlp_bias=bool(config.get("mlp_bias", False)),
        qkv_bias=bool(config.get("qkv_bias", False)),
        qk_norm=bool(config.get("qk_norm", False)),
        qk_norm_whole=bool(config.get("qk_norm_whole", False)),
        gate=bool(config.get("ffn_gate", True)),
        norm_bias=bool(config.get("norm_bias", False)),
        norm_before=bool(config.get("norm_before", True)),
        norm_after=bool(config.get("norm_after", False)),
        norm_offset=float(config.get("norm_offset", 0.0)),
        learned_positions=int(config.get("learned_positions") or 0),
        experts=experts,
        experts_per_token=int(config.get("experts_per_token") or 0) if experts else 0,
        norm_topk_prob=bool(config.get("normalised_shares", True)),
        router_bias=bool(config.get("router_bias", False)),
        attention_sinks=bool(config.get("attention_sinks", False)),
    )


families: Registry[Family] = Registry(
    "family",
    "lathe.compressor.model.families",
    "lathe.families",
    lambda name, value: isinstance(value, Family) and value.model_type == name,
)
"""Every family by its model type."""


def exported(model_type: str) -> Family:
    """Returns the family of our own checkpoints of a model type: tensors and settings as they are."""
    return Family(model_type, description="uneven subnets", exported_type=model_type)


def register(family: Family) -> Family:
    """Makes a family known by its model type."""
    return families.add(family.model_type, family)


def resolve(config: Mapping[str, Any]) -> Family:
    """Returns the family of a config.json document, by its `model_type`.

    Raises:
        UserError: there is no `model_type`, or one that no family declares.
    """
    model_type = config.get("model_type")
    if isinstance(model_type, str) and model_type in families.known():
        return families.get(model_type)
    if not model_type:
        raise UserError("config.json has no `model_type`", "Is this a Hugging Face checkpoint?")
    raise UserError(
        f"model type `{model_type}` is not supported", f"Supported: {', '.join(families.known())}."
    )
