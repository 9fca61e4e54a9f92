"""The nodes and weights of a decoder, as few per layer as the fused operators allow.

Shapes: B batch, S new tokens, R wanted logits, D model width, F FFN channels, N query heads, K KV heads,
H head dim, V vocabulary, M cache length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from onnx import TensorProto

from compressor.export.onnx.matrices import Matrices
from compressor.export.onnx.rope import rotary_tables
from compressor.export.onnx.writer import MICROSOFT, GraphWriter
from compressor.families import Family
from compressor.plan import LayerShape, ModelShape, Plan

Tensors = Callable[[str], torch.Tensor]
_TABLES = ("cos", "sin")


@dataclass(frozen=True)
class Stream:
    """The residual stream between blocks: what the next norm has still to add up."""

    residual: str
    branch: str = ""
    branch_bias: str = ""


class Decoder:
    """Adds the nodes and weights of one decoder to a writer. activations: those that it can compute."""

    activations: tuple[str, ...] = ("silu", "swish")

    def __init__(
        self,
        writer: GraphWriter,
        config: Mapping[str, Any],
        family: Family,
        shape: ModelShape,
        tensor: Tensors,
        matrices: Matrices,
    ) -> None:
        self.writer, self.config, self.family = writer, config, family
        self.shape, self.tensor, self.matrices = shape, tensor, matrices
        self.epsilon = float(config.get("rms_norm_eps", 1e-6))

    def build(self, plan: Plan) -> None:
        writer, shape = self.writer, self.shape
        ids = writer.input("input_ids", TensorProto.INT64, ["batch", "sequence"])
        writer.input("seqlens_k", TensorProto.INT32, ["batch"])
        writer.input("total_sequence_length", TensorProto.INT32, [])
        wanted = writer.input("logits_at", TensorProto.INT64, ["rows", 2])
        logits = writer.output("logits", TensorProto.FLOAT, ["rows", shape.vocab_size])
        embedding = f"{self.family.embedding}.weight"
        embedded = self.matrices.embed(ids, embedding, self.tensor(embedding))
        stream = Stream(self._positioned(embedded, ids))
        if any(layer.kv_heads and self._rotates(i) for i, layer in enumerate(plan.layers)):
            for name, table in zip(_TABLES, rotary_tables(self.config, shape.head_dim), strict=True):
                writer.constant(name, table)
        for index, layer in enumerate(plan.layers):
            if layer.kv_heads:
                stream = self._attention(stream, index, layer)
            if layer.ffn:
                stream = self._ffn(stream, index)
        normed, _ = self._norm(stream, self.family.final_norm)
        rows = writer.node("GatherND", [normed, wanted], ["rows"])
        head = f"{self.family.head}.weight"
        self.matrices.logits(rows, logits, head, None if shape.tied_embeddings else self.tensor(head))

    def _positioned(self, embedded: str, _ids: str) -> str:
        """What the first layer reads."""
        return embedded

    def _rotates(self, index: int) -> bool:
        """Whether queries and keys of a layer are rotated."""
        positions = self.config.get("no_rope_layers")
        return positions is None or bool(positions[index])

    def _attention(self, stream: Stream, index: int, layer: LayerShape) -> Stream:
        family, writer, prefix = self.family, self.writer, self.family.layer_prefix(index)
        normed, residual = self._norm(stream, prefix + family.attention_norm)
        queries, keys, values = self._projected(normed, prefix)
        cache: list[str | int] = ["batch", layer.kv_heads, "max_length", self.shape.head_dim]
        parts = [f"{index}.key", f"{index}.value"]
        past = [writer.input(f"past_key_values.{part}", TensorProto.FLOAT, cache) for part in parts]
        present = [writer.output(f"present.{part}", TensorProto.FLOAT, cache) for part in parts]
        rotated = self._rotates(index)
        attended = writer.node(
            "GroupQueryAttention",
            [queries, keys, values, *past, "seqlens_k", "total_sequence_length", *_TABLES[: 2 * rotated]],
            [f"{prefix}attended", *present],
            domain=MICROSOFT,
            num_heads=layer.query_heads,
            kv_num_heads=layer.kv_heads,
            do_rotary=int(rotated),
        )
        return self._branch(attended, residual, prefix + family.o, self.shape.attention_bias)

    def _projected(self, normed: str, prefix: str) -> tuple[str, str, str]:
        """What attention reads: queries, keys and values in one where no norm comes between."""
        family, biased = self.family, self.shape.attention_bias or self.shape.qkv_bias
        modules = [prefix + name for name in (family.q, family.k, family.v)]
        if not self.shape.qk_norm:
            return self._linear(normed, f"{prefix}qkv", modules, biased), "", ""
        q, k, v = (self._linear(normed, module, [module], biased) for module in modules)
        return self._head_norm(q, prefix + family.q_norm), self._head_norm(k, prefix + family.k_norm), v

    def _head_norm(self, value: str, module: str) -> str:
        """RMS normalisation of every head by itself. (GroupQueryAttention's own has no CPU kernel.)"""
        heads, flat = (
            self.writer.constant(f"{module}.{name}", torch.tensor(dims))
            for name, dims in (("heads", [0, 0, -1, self.shape.head_dim]), ("flat", [0, 0, -1]))
        )
        split = self.writer.node("Reshape", [value, heads], [f"{module}.split"])
        gamma = self._weight(f"{module}.weight")
        normed = self.writer.node(
            "RMSNormalization", [split, gamma], [f"{module}.normed"], axis=-1, epsilon=self.epsilon
        )
        return self.writer.node("Reshape", [normed, flat], [f"{module}.joined"])

    def _ffn(self, stream: Stream, index: int) -> Stream:
        family, writer, prefix = self.family, self.writer, self.family.layer_prefix(index)
        normed, residual = self._norm(stream, prefix + family.ffn_norm)
        gate, up = (
            self._linear(normed, prefix + name, [prefix + name], self.shape.mlp_bias)
            for name in (family.gate, family.up)
        )
        silu = writer.node("QuickGelu", [gate], [f"{prefix}silu"], domain=MICROSOFT, alpha=1.0)
        gated = writer.node("Mul", [silu, up], [f"{prefix}gated"])
        return self._branch(gated, residual, prefix + family.down, self.shape.mlp_bias)

    def _norm(self, stream: Stream, module: str) -> tuple[str, str]:
        """(normed, residual): the pending branch is added to the residual on the way."""
        gamma = self._weight(f"{module}.weight")
        if not stream.branch:
            normed = self.writer.node(
                "RMSNormalization",
                [stream.residual, gamma],
                [f"{module}.normed"],
                axis=-1,
                epsilon=self.epsilon,
            )
            return normed, stream.residual
        residual = f"{module}.residual"
        normed = self.writer.node(
            "SkipSimplifiedLayerNormalization",
            [stream.residual, stream.branch, gamma, stream.branch_bias],
            [f"{module}.normed", "", "", residual],
            domain=MICROSOFT,
            epsilon=self.epsilon,
        )
        return normed, residual

    def _branch(self, value: str, residual: str, module: str, biased: bool) -> Stream:
        branch = self._linear(value, module, [module], False)
        return Stream(residual, branch, self._weight(f"{module}.bias") if biased else "")

    def _linear(self, value: str, name: str, modules: list[str], biased: bool) -> str:
        """One product with the stacked weights of `modules`, which checkpoints store as [out, in]."""
        product = self.matrices.product(value, name, self._stacked(modules, "weight"))
        if not biased:
            return product
        bias = self.writer.weight(f"{name}.bias", self._stacked(modules, "bias"))
        return self.writer.node("Add", [product, bias], [f"{name}.sum"])

    def _stacked(self, modules: list[str], kind: str) -> torch.Tensor:
        parts = [self.tensor(f"{module}.{kind}") for module in modules]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _weight(self, name: str) -> str:
        return self.writer.weight(name, self.tensor(name))
