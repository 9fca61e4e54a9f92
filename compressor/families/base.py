"""What a family declares: where its tensors are, and how its config gives the dimensions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from compressor.errors import UserError
from compressor.plan import LayerShape, ModelShape
from compressor.registry import Registry


@dataclass(frozen=True, slots=True)
class Family:
    """A decoder family as data. Names are module paths; a layer's are relative to `layer`.

    `model_type` is the Hugging Face model type; `exported_type` the one of our uneven checkpoints.
    """

    model_type: str
    exported_type: str
    layer: str = "model.layers.{i}"
    attention_norm: str = "input_layernorm"
    q: str = "self_attn.q_proj"
    k: str = "self_attn.k_proj"
    v: str = "self_attn.v_proj"
    o: str = "self_attn.o_proj"
    ffn_norm: str = "post_attention_layernorm"
    gate: str = "mlp.gate_proj"
    up: str = "mlp.up_proj"
    down: str = "mlp.down_proj"
    embedding: str = "model.embed_tokens"
    final_norm: str = "model.norm"
    head: str = "lm_head"

    def layer_prefix(self, index: int) -> str:
        return self.layer.format(i=index) + "."

    def shape(self, config: Mapping[str, Any]) -> ModelShape:
        """Dimensions from a config.json document.

        Raises:
            UserError: a dimension is missing or impossible.
        """
        try:
            hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
            kv_heads = int(config.get("num_key_value_heads") or heads)
            shape = ModelShape(
                hidden_size=hidden,
                vocab_size=int(config["vocab_size"]),
                head_dim=int(config.get("head_dim") or hidden // heads),
                tied_embeddings=bool(config.get("tie_word_embeddings", False)),
                num_layers=int(config["num_hidden_layers"]),
                layer=LayerShape(heads, kv_heads, int(config["intermediate_size"])),
                attention_bias=bool(config.get("attention_bias", False)),
                mlp_bias=bool(config.get("mlp_bias", False)),
            )
        except KeyError as error:
            raise UserError(f"config.json has no {error}", "Is this a complete checkpoint?") from None
        except (TypeError, ValueError, ArithmeticError) as error:
            raise UserError(f"config.json has an impossible dimension: {error}") from None
        sizes = (hidden, heads, shape.vocab_size, shape.head_dim, shape.num_layers, shape.layer.ffn)
        if min(sizes) < 1:
            raise UserError(f"config.json has a dimension of {min(sizes)}", "Is this a complete checkpoint?")
        return shape

    def block_tensors(self, shape: ModelShape) -> Iterator[tuple[str, tuple[int, ...]]]:
        """(name relative to the layer, dense shape) of every tensor of one layer."""
        d = shape.hidden_size
        q, kv = shape.layer.query_heads * shape.head_dim, shape.layer.kv_heads * shape.head_dim
        ffn = shape.layer.ffn
        yield f"{self.attention_norm}.weight", (d,)
        yield f"{self.ffn_norm}.weight", (d,)
        linears = [
            (self.q, q, d, shape.attention_bias), (self.k, kv, d, shape.attention_bias),
            (self.v, kv, d, shape.attention_bias), (self.o, d, q, shape.attention_bias),
            (self.gate, ffn, d, shape.mlp_bias), (self.up, ffn, d, shape.mlp_bias),
            (self.down, d, ffn, shape.mlp_bias),
        ]
        for name, rows, columns, bias in linears:
            yield f"{name}.weight", (rows, columns)
            if bias:
                yield f"{name}.bias", (rows,)

    def tensors(self, shape: ModelShape) -> Iterator[tuple[str, tuple[int, ...]]]:
        """(full name, dense shape) of every tensor a checkpoint of this family must hold."""
        yield f"{self.embedding}.weight", (shape.vocab_size, shape.hidden_size)
        for i in range(shape.num_layers):
            for name, dims in self.block_tensors(shape):
                yield self.layer_prefix(i) + name, dims
        yield f"{self.final_norm}.weight", (shape.hidden_size,)
        if not shape.tied_embeddings:
            yield f"{self.head}.weight", (shape.vocab_size, shape.hidden_size)


families: Registry[Family] = Registry("family", "compressor.families")


def register(family: Family) -> Family:
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
