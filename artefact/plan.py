"""A subnet as data: the widths of every layer, and the arithmetic that follows from them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lathe.artefact.errors import UserError

BlockKind = Literal["attention", "ffn"]
"""The kind of one of a decoder layer's two blocks."""

BLOCK_KINDS: tuple[BlockKind, ...] = ("attention", "ffn")
"""The blocks of a layer, in the order in which a model runs them."""

Width = int | tuple[int, int]
"""Channels of an FFN; of one of experts, (experts, channels of each); 0: no FFN block."""

Heads = tuple[int, int]
"""(query heads, KV heads); (0, 0): no attention block."""

WEIGHT_BITS = (0, 8, 4)
"""Bits of a block's weights; 0: they stay as the checkpoint's values."""


class RoundedHeads(NamedTuple):
    """An attention block whose weights are rounded to so many bits."""

    heads: Heads
    bits: int


class RoundedWidth(NamedTuple):
    """An FFN block whose weights are rounded to so many bits."""

    width: Width
    bits: int


AttentionLevel = Heads | RoundedHeads
FFNLevel = Width | RoundedWidth


@dataclass(frozen=True, slots=True)
class LayerShape:
    """Widths of one decoder layer. `kv_heads == 0`: no attention block; `ffn == 0`: no FFN block.

    Attributes:
        experts: how many the FFN has, each of `ffn` channels; 0: all of the dense model's, if that has any.
        attention_bits: bits of the attention block's weights where an engine runs them; 0: the checkpoint's.
        ffn_bits: those of the FFN block.
    """

    query_heads: int
    kv_heads: int
    ffn: int
    experts: int = 0
    attention_bits: int = 0
    ffn_bits: int = 0

    def __post_init__(self) -> None:
        for kind, bits, width in (
            ("attention", self.attention_bits, self.kv_heads),
            ("ffn", self.ffn_bits, self.ffn),
        ):
            if bits not in WEIGHT_BITS or (bits and not width):
                raise UserError(f"a layer's {kind} block cannot have {bits!r} bits: {self}")
        if min(self.query_heads, self.kv_heads, self.ffn, self.experts) < 0:
            raise UserError(f"a layer has a negative width: {self}")
        if self.experts and not self.ffn:
            raise UserError(f"experts have no channels: {self}")
        if bool(self.query_heads) != bool(self.kv_heads):
            raise UserError(f"query_heads and kv_heads must both be zero or both positive: {self}")
        if self.kv_heads and self.query_heads % self.kv_heads:
            heads = f"{self.query_heads} are not one of {self.kv_heads}"
            raise UserError(f"query heads must be a multiple of KV heads: {heads}")

    @classmethod
    def of(cls, attention: AttentionLevel, feed_forward: FFNLevel) -> LayerShape:
        """Returns the shape with these levels of its two blocks."""
        heads, attention_bits = attention if isinstance(attention, RoundedHeads) else (attention, 0)
        width, ffn_bits = feed_forward if isinstance(feed_forward, RoundedWidth) else (feed_forward, 0)
        experts, ffn = (0, width) if isinstance(width, int) else width
        return cls(*heads, ffn, experts, attention_bits, ffn_bits)

    @property
    def heads(self) -> Heads:
        """The heads of the attention block."""
        return self.query_heads, self.kv_heads

    @property
    def width(self) -> Width:
        """The width of the FFN."""
        return (self.experts, self.ffn) if self.experts else self.ffn

    @property
    def attention_level(self) -> AttentionLevel:
        """The heads of the attention block, and the bits of its weights where they are rounded."""
        return RoundedHeads(self.heads, self.attention_bits) if self.attention_bits else self.heads

    @property
    def ffn_level(self) -> FFNLevel:
        """The width of the FFN block, and the bits of its weights where they are rounded."""
        return RoundedWidth(self.width, self.ffn_bits) if self.ffn_bits else self.width

    def bits(self, kind: BlockKind) -> int:
        """Returns the bits of a block's weights; 0: they stay as the checkpoint's values."""
        return self.attention_bits if kind == "attention" else self.ffn_bits

    @property
    def unrounded(self) -> LayerShape:
        """The same widths, with the checkpoint's values."""
        return replace(self, attention_bits=0, ffn_bits=0)

    def to_json(self) -> dict[str, int]:
        """Returns the shape as JSON; `experts` and bits only if there are some."""
        optional = ("experts", "attention_bits", "ffn_bits")
        return {name: value for name, value in asdict(self).items() if value or name not in optional}

    def contains(self, other: LayerShape) -> bool:
        """Returns whether a layer of other widths can consist of the first units of each block of this one.

        Units are query heads of a KV group, KV groups, channels, of each expert where there are any, and
        experts.
        """
        return (
            other.kv_heads <= self.kv_heads
            and other.heads_per_group <= self.heads_per_group
            and other.ffn <= self.ffn
            and other.experts <= self.experts
        )

    @property
    def heads_per_group(self) -> int:
        """Query heads that read one KV head; 0 without attention."""
        return self.query_heads // self.kv_heads if self.kv_heads else 0


@dataclass(frozen=True, slots=True)
class Plan:
    """The shape of a subnet, layer by layer.

    Attributes:
        layers: the layers' widths, and bits where their weights are rounded.
        head_bits: bits of embedding and head; 0: they stay as the checkpoint's values.
    """

    layers: tuple[LayerShape, ...]
    head_bits: int = 0

    def __post_init__(self) -> None:
        if self.head_bits not in WEIGHT_BITS:
            raise UserError(f"embedding and head cannot have {self.head_bits!r} bits")

    def __iter__(self) -> Any:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, index: int) -> LayerShape:
        return self.layers[index]

    def with_experts(self, experts: int) -> Plan:
        """Returns a copy with `experts` filled in where it is 0."""
        return Plan(
            tuple(
                replace(layer, experts=layer.experts or experts) if layer.ffn else layer
                for layer in self.layers
            ),
            self.head_bits,
        )

    def replace(self, index: int, layer: LayerShape) -> Plan:
        """The same but for one layer."""
        return Plan((*self.layers[:index], layer, *self.layers[index + 1 :]), self.head_bits)

    def in_bits(self, bits: int, head_bits: int) -> Plan:
        """The same widths, with every block in so many bits, and embedding and head in others."""
        levels = ((bits * bool(layer.kv_heads), bits * bool(layer.ffn)) for layer in self.layers)
        pairs = zip(self.layers, levels, strict=True)
        return Plan(tuple(replace(layer, attention_bits=a, ffn_bits=f) for layer, (a, f) in pairs), head_bits)

    @property
    def unrounded(self) -> Plan:
        """The same widths, with the checkpoint's values."""
        return Plan(tuple(layer.unrounded for layer in self.layers))

    @property
    def rounded(self) -> bool:
        """True if any weights are rounded."""
        return self != self.unrounded

    def to_json(self) -> dict[str, Any]:
        """The document of `plan.json`."""
        document: dict[str, Any] = {
            "format": "lathe-plan/1",
            "layers": [layer.to_json() for layer in self.layers],
        }
        return document | ({"head_bits": self.head_bits} if self.head_bits else {})

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Plan:
        """The inverse of `to_json`.

        Raises:
            UserError: it is no such document.
        """
        if not isinstance(document, dict) or document.get("format") != "lathe-plan/1":
            raise UserError("not a lathe plan: `format` must be `lathe-plan/1`")
        try:
            layers, head_bits = document["layers"], document.get("head_bits", 0)
            numbers = [("head_bits", head_bits), *(item for layer in layers for item in layer.items())]
            for name, value in numbers:
                if type(value) is not int:
                    raise UserError(f"the plan's `{name}` is {value!r}", "Write a whole number.")
            return cls(tuple(LayerShape(**layer) for layer in layers), head_bits)
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"the plan's layers are malformed: {error}") from None

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Reads a plan from a file such as `plan.json`.

        Raises:
            UserError: it cannot be read, or holds no plan.
        """
        try:
            return cls.from_json(json.loads(path.read_text(encoding="utf-8-sig")))
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read the plan {path}: {error}") from None

    @property
    def uneven(self) -> bool:
        """True if layers differ in width."""
        return len(set(self.unrounded.layers)) > 1


_NAMES_IN_FILES = {
    "learned_positions": "positions",
    "experts_per_token": "chosen",
    "norm_topk_prob": "normalised_shares",
}
"""How latency profiles call some of a model's dimensions."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The dimensions of a dense decoder that parameters, bytes and levels follow from.

    Attributes:
        layer: widths of each of its layers.
        attention_bias: of all four projections of an attention block.
        mlp_bias: of all projections of an FFN.
        qkv_bias: of q, k and v at least.
        qk_norm: whether queries and keys are normalised, head by head.
        qk_norm_whole: whether they are so all heads together.
        gate: whether an FFN has one.
        norm_bias: whether norms have biases.
        norm_before: whether a norm makes what a block reads.
        norm_after: whether a norm makes what a block adds.
        norm_offset: what is added to a norm's weights.
        learned_positions: how many there are; 0: none is learned.
        experts: of every FFN, each as wide as `layer.ffn`; 0: an FFN is one.
        experts_per_token: how many of them a token uses.
        norm_topk_prob: whether the routing weights of these add up to 1.
        router_bias: whether the router of experts has one.
        attention_sinks: whether every query head has a score that belongs to no token.
    """

    hidden_size: int
    vocab_size: int
    head_dim: int
    tied_embeddings: bool
    num_layers: int
    layer: LayerShape
    attention_bias: bool = False
    mlp_bias: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    qk_norm_whole: bool = False
    gate: bool = True
    norm_bias: bool = False
    norm_before: bool = True
    norm_after: bool = False
    norm_offset: float = 0.0
    learned_positions: int = 0
    experts: int = 0
    experts_per_token: int = 0
    norm_topk_prob: bool = True
    router_bias: bool = False
    attention_sinks: bool = False

    @property
    def dense_plan(self) -> Plan:
        """The plan that keeps all."""
        return Plan((self.layer,) * self.num_layers)

    @property
    def widest_output_projection(self) -> int:
        """The most inputs of an output projection, of an expert's in an FFN of experts."""
        return max(self.layer.query_heads * self.head_dim, self.layer.ffn)

    @property
    def norm_parameters(self) -> int:
        """The parameters of one norm over the hidden size."""
        return self.hidden_size * (2 if self.norm_bias else 1)

    @property
    def _block_norms(self) -> int:
        """Norms over the hidden size that a block has."""
        return self.norm_before + self.norm_after

    def attention_parameters(self, layer: LayerShape) -> int:
        """q, k, v, o projections and the block's norms."""
        if not layer.kv_heads:
            return 0
        q, kv, d = layer.query_heads * self.head_dim, layer.kv_heads * self.head_dim, self.hidden_size
        bias = (q + 2 * kv) if self.attention_bias or self.qkv_bias else 0
        bias += d if self.attention_bias else 0
        bias += layer.query_heads if self.attention_sinks else 0
        norms = self._block_norms * self.norm_parameters
        if self.qk_norm:
            norms += q + kv if self.qk_norm_whole else 2 * self.head_dim
        return 2 * d * q + 2 * d * kv + norms + bias

    def ffn_parameters(self, layer: LayerShape) -> int:
        """Gate (if there is one), up, down projections, the router of experts, and the block's norms."""
        if not layer.ffn:
            return 0
        d, inner, channels = self.hidden_size, 2 if self.gate else 1, self.ffn_channels(layer)
        experts = self.experts_of(layer)
        bias = (inner * channels + max(experts, 1) * d) if self.mlp_bias else 0
        rest = self._block_norms * self.norm_parameters + experts * (d + self.router_bias)
        return (inner + 1) * d * channels + rest + bias

    def to_json(self) -> dict[str, Any]:
        """Returns the dimensions as latency profiles keep them."""
        return {_NAMES_IN_FILES.get(name, name): value for name, value in asdict(self).items()}

    def ffn_channels(self, layer: LayerShape) -> int:
        """Returns the channels of an FFN, all its experts together."""
        return layer.ffn * max(self.experts_of(layer), 1)

    def experts_of(self, layer: LayerShape) -> int:
        """Returns the number of experts in a layer's FFN; 0 where an FFN is one."""
        return layer.experts or self.experts

    def decoder_parameters(self, plan: Iterable[LayerShape]) -> int:
        """Parameters of the decoder layers: what `--keep` is a share of."""
        return sum(self.attention_parameters(layer) + self.ffn_parameters(layer) for layer in plan)

    def kept(self, plan: Iterable[LayerShape]) -> float:
        """The share of the dense decoder's parameters that a plan has."""
        return self.decoder_parameters(plan) / self.decoder_parameters(self.dense_plan)

    @property
    def table_parameters(self) -> int:
        """The parameters of embedding and head."""
        return self.vocab_size * self.hidden_size * (1 if self.tied_embeddings else 2)

    def parameters(self, plan: Iterable[LayerShape]) -> int:
        """All of a model, embeddings and head too."""
        others = self.learned_positions * self.hidden_size + self.norm_parameters
        return self.decoder_parameters(plan) + self.table_parameters + others

    def weight_bytes(self, plan: Iterable[LayerShape], bytes_per_weight: int) -> int:
        """Bytes of all parameters."""
        return self.parameters(plan) * bytes_per_weight

    def kv_bytes_per_token(self, plan: Iterable[LayerShape], bytes_per_value: int) -> int:
        """Bytes that a token of a sequence takes in the KV cache."""
        return sum(2 * layer.kv_heads * self.head_dim for layer in plan) * bytes_per_value
