"""What a family declares: where its tensors are, and how its config gives the dimensions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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

    Names are module paths of our own models, Llama's; a layer's are relative to `layer`.

    Args:
        model_type: the Hugging Face model type.
        covers: what people call its models.
        exported_type: the model type of our uneven checkpoints.
        defaults: what its transformers config has for settings that a config.json leaves out, where Llama's
            has something else.
        derived: settings of our model that follow from others, from the config with its defaults.
        settings: of our model, the same for all checkpoints of the family: biases, norms of queries and keys.
        slides: which of its layers have a sliding window; None where its models take no window.
        ropes: the kinds of rotary positions that mean in its config what they mean in ours.
        partial: whether its models read `partial_rotary_factor`.
        fused: modules of its checkpoints that hold several of ours, one below the other.
        interleaved: those that hold them head by head.
        side_by_side: modules of ours that its checkpoints hold expert by expert, {e}.
        stored: module paths of ours and of its checkpoints, where they differ.
        base: the prefix of its checkpoints' names that is left out where the base model was saved.
        also: what other checkpoints have in names, and what is `stored` instead of it.
        before: rows of its learned positions that come before the first.
    """

    model_type: str
    covers: str
    exported_type: str = "lathe_llama"
    defaults: Mapping[str, Any] = field(default_factory=dict)
    derived: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda _config: {}
    settings: Mapping[str, Any] = field(default_factory=dict)
    slides: Slides | None = None
    ropes: tuple[str, ...] = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")
    partial: bool = False
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    interleaved: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    side_by_side: Mapping[str, str] = field(default_factory=dict)
    stacked: Mapping[str, Stack] = field(default_factory=dict)
    stored: Mapping[str, str] = field(default_factory=dict)
    base: str = "model"
    also: Mapping[str, str] = field(default_factory=dict)
    before: int = 0
    layer: str = "model.layers.{i}"
    attention_norm: str = "input_layernorm"
    q: str = "self_attn.q_proj"
    k: str = "self_attn.k_proj"
    v: str = "self_attn.v_proj"
    q_norm: str = "self_attn.q_norm"
    k_norm: str = "self_attn.k_norm"
    o: str = "self_attn.o_proj"
    attention_after: str = "attention_output_norm"
    ffn_norm: str = "post_attention_layernorm"
    gate: str = "mlp.gate_proj"
    up: str = "mlp.up_proj"
    down: str = "mlp.down_proj"
    router: str = "mlp.router"
    shares: str = "mlp.share_proj"
    sinks: str = "self_attn.sinks"
    ffn_after: str = "ffn_output_norm"
    embedding: str = "model.embed_tokens"
    positions: str = "model.embed_positions"
    final_norm: str = "model.norm"
    head: str = "lm_head"

    def layer_prefix(self, index: int) -> str:
        """What the names of a layer's tensors begin with."""
        return self.layer.format(i=index) + "."

    def read(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """A config.json document as one of our model: defaults filled in, the family's settings added,
        sliding windows by layer, and none where they are never in use.

        Raises:
            UserError: it sets something that changes what the model computes and that ours does not have.
        """
        whole = {**self.defaults, **config}
        try:
            own = {**self.derived(whole), **self.settings}
            refuse_other_maths(whole | own, own, self.model_type, self.ropes, self.partial)
            own |= windows(whole | own, self.slides)
            refuse_others_settings(config, own, self.model_type)
        except KeyError as error:
            raise UserError(f"config.json has no {error}", "Is this a complete checkpoint?") from None
        except (TypeError, ValueError, AttributeError) as error:
            raise UserError(f"config.json has an impossible setting: {error}") from None
        return {k: v for k, v in (whole | own).items() if k not in WINDOW_SETTINGS}

    def shape(self, config: Mapping[str, Any]) -> ModelShape:
        """Dimensions from a document that `read` gave.

        Raises:
            UserError: a dimension is missing or impossible.
        """
        try:
            hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
            kv_heads = int(config.get("num_key_value_heads") or heads)
            experts = int(config.get("experts") or 0)
            shape = ModelShape(
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
                positions=int(config.get("learned_positions") or 0),
                experts=experts,
                chosen=int(config.get("experts_per_token") or 0) if experts else 0,
                normalised_shares=bool(config.get("normalised_shares", True)),
                router_bias=bool(config.get("router_bias", False)),
                attention_sinks=bool(config.get("attention_sinks", False)),
            )
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

    def block_tensors(self, shape: ModelShape) -> Iterator[tuple[str, tuple[int, ...]]]:
        """(name relative to the layer, dense shape) of every tensor of one layer."""
        d = shape.hidden_size
        q, kv = shape.layer.query_heads * shape.head_dim, shape.layer.kv_heads * shape.head_dim
        ffn, experts = shape.ffn_channels(shape.layer), shape.experts_of(shape.layer)
        for present, norms in (
            (shape.norm_before, (self.attention_norm, self.ffn_norm)),
            (shape.norm_after, (self.attention_after, self.ffn_after)),
        ):
            for norm in norms if present else ():
                yield from self._norm(norm, shape)
        qkv_bias = shape.attention_bias or shape.qkv_bias
        linears = [
            (self.q, q, d, qkv_bias),
            (self.k, kv, d, qkv_bias),
            (self.v, kv, d, qkv_bias),
            (self.o, d, q, shape.attention_bias),
            *([(self.gate, ffn, d, shape.mlp_bias)] if shape.gate else []),
            (self.up, ffn, d, shape.mlp_bias),
            (self.down, d, ffn, shape.mlp_bias and not experts),
            *([(self.router, experts, d, shape.router_bias)] if experts else []),
            *([(self.shares, d, experts, False)] if experts and shape.mlp_bias else []),
        ]
        for name, rows, columns, bias in linears:
            yield f"{name}.weight", (rows, columns)
            if bias:
                yield f"{name}.bias", (rows,)
        if shape.attention_sinks:
            yield self.sinks, (shape.layer.query_heads,)
        if shape.qk_norm:
            yield f"{self.q_norm}.weight", (q if shape.qk_norm_whole else shape.head_dim,)
            yield f"{self.k_norm}.weight", (kv if shape.qk_norm_whole else shape.head_dim,)

    def tensors(self, shape: ModelShape) -> Iterator[tuple[str, tuple[int, ...]]]:
        """(full name, dense shape) of every tensor of the dense model."""
        yield from self.first_tensors(shape)
        for i in range(shape.num_layers):
            for name, dims in self.block_tensors(shape):
                yield self.layer_prefix(i) + name, dims
        yield from self.last_tensors(shape)

    def first_tensors(self, shape: ModelShape) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Those before the layers."""
        yield f"{self.embedding}.weight", (shape.vocab_size, shape.hidden_size)
        if shape.positions:
            yield f"{self.positions}.weight", (shape.positions, shape.hidden_size)

    def last_tensors(self, shape: ModelShape) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Those after the layers."""
        yield from self._norm(self.final_norm, shape)
        if not shape.tied_embeddings:
            yield f"{self.head}.weight", (shape.vocab_size, shape.hidden_size)

    def _norm(self, module: str, shape: ModelShape) -> Iterator[tuple[str, tuple[int, ...]]]:
        for kind in ("weight", "bias") if shape.norm_bias else ("weight",):
            yield f"{module}.{kind}", (shape.hidden_size,)


families: Registry[Family] = Registry(
    "family",
    "lathe.compressor.model.families",
    "lathe.families",
    lambda name, value: isinstance(value, Family) and value.model_type == name,
)
"""Every family by its model type."""


def exported(model_type: str) -> Family:
    """What reads our own checkpoints of a model type: tensors and settings as they are."""
    return Family(model_type, covers="uneven subnets", exported_type=model_type)


def register(family: Family) -> Family:
    """Makes a family known by its model type."""
    return families.add(family.model_type, family)


def resolve(config: Mapping[str, Any]) -> Family:
    """The family of a config.json document, by its `model_type`.

    Raises:
        UserError: no `model_type`, or one that no family declares.
    """
    model_type = config.get("model_type")
    if isinstance(model_type, str) and model_type in families.known():
        return families.get(model_type)
    if not model_type:
        raise UserError("config.json has no `model_type`", "Is this a Hugging Face checkpoint?")
    raise UserError(
        f"model type `{model_type}` is not supported", f"Supported: {', '.join(families.known())}."
    )
