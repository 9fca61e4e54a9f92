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

from lathe.artefact.plan import LayerShape, ModelShape, Plan
from lathe.compressor.export.onnx.cache import CacheFormat
from lathe.compressor.export.onnx.matrices import (
    Matrices,
    Matrix,
    QuantizedMatrices,
    as_they_are,
    stack_rows,
    values_of,
)
from lathe.compressor.export.onnx.rope import rotary_tables, rotated_first
from lathe.compressor.export.onnx.writer import MICROSOFT, GraphWriter
from lathe.compressor.model.names import (
    ATTENTION_NORM,
    ATTENTION_OUTPUT_NORM,
    DOWN_PROJ,
    EMBEDDING,
    FFN_NORM,
    FFN_OUTPUT_NORM,
    FINAL_NORM,
    GATE_PROJ,
    K_NORM,
    K_PROJ,
    LM_HEAD,
    O_PROJ,
    Q_NORM,
    Q_PROJ,
    UP_PROJ,
    V_PROJ,
    layer_prefix,
)

Tensors = Callable[[str], torch.Tensor]
_TABLES, _WINDOW_TABLES = ("cos", "sin"), ("window_cos", "window_sin")
_SINK = 11
"""The position of the sinks among the inputs of GroupQueryAttention; scales of the cache follow."""


@dataclass(frozen=True)
class ResidualStream:
    """The residual stream between blocks, as names of values; the next norm adds them up."""

    residual: str
    branch: str = ""
    branch_bias: str = ""


class Decoder:
    """Adds the nodes and weights of one decoder to a writer.

    Every `make_` method adds nodes and returns the name of their result. `activations` are those that the
    decoder can compute, as `hidden_act` calls them. `cache` is what the graph keeps of keys and values.
    """

    activations: tuple[str, ...] = ("silu", "swish")

    def __init__(
        self,
        writer: GraphWriter,
        config: Mapping[str, Any],
        shape: ModelShape,
        tensor: Tensors,
        matrices: Matrices,
        cache: CacheFormat,
        quantized: QuantizedMatrices = as_they_are,
    ) -> None:
        self.writer, self.config = writer, config
        self.shape, self.tensor, self.matrices = shape, tensor, matrices
        self._cache, self._quantized = cache, quantized
        self.epsilon = float(config.get("rms_norm_eps", 1e-6))
        self._order = rotated_first(config, shape.head_dim)

    def build(self, plan: Plan) -> None:
        r"""Adds the whole graph.

        Subgraph:

        input_ids
            |
        embedding
            |
        layers, each: attention, then FFN
            |
        final norm      logits_at
                 \     /
                GatherND
                    |
                  head
                    |
                  logits
        """
        writer, shape = self.writer, self.shape
        ids = writer.input("input_ids", TensorProto.INT64, ["batch", "sequence"])
        writer.input("seqlens_k", TensorProto.INT32, ["batch"])
        writer.input("total_sequence_length", TensorProto.INT32, [])
        wanted = writer.input("logits_at", TensorProto.INT64, ["rows", 2])
        logits = writer.output("logits", TensorProto.FLOAT, ["rows", shape.vocab_size])
        stream = ResidualStream(self.make_embedding(ids))
        self._make_rotary_tables(plan)
        for index, layer in enumerate(plan.layers):
            stream = self.make_layer(stream, index, layer)
        normed, _ = self.make_skip_layernorm(stream, FINAL_NORM)
        rows = writer.node("GatherND", [normed, wanted], ["rows"])
        self.make_lm_head(rows, logits)

    def _make_rotary_tables(self, plan: Plan) -> None:
        with_attention = [i for i, layer in enumerate(plan.layers) if layer.kv_heads]
        for names in sorted({tables for i in with_attention if (tables := self.rotary_table_names(i))}):
            values = rotary_tables(self.config, self.shape.head_dim, names == _WINDOW_TABLES)
            for name, table in zip(names, values, strict=True):
                self.writer.constant(name, table)

    def make_layer(self, stream: ResidualStream, index: int, layer: LayerShape) -> ResidualStream:
        """Adds the blocks of a layer that its plan keeps."""
        if layer.kv_heads:
            stream = self.make_attention(stream, index, layer)
        return self.make_ffn(stream, index) if layer.ffn else stream

    def make_lm_head(self, rows: str, output: str) -> None:
        """Adds the head's product, as the graph's `output`."""
        head = f"{LM_HEAD}.weight"
        weight = None if self.shape.tied_embeddings else self._matrix(head)
        self.matrices.make_lm_head(rows, output, head, weight)

    def make_embedding(self, ids: str) -> str:
        """Adds the table's look-up; returns what the first layer reads."""
        name = f"{EMBEDDING}.weight"
        return self.matrices.make_embedding(ids, name, self._matrix(name))

    def uses_rope(self, index: int) -> bool:
        """Returns whether a layer rotates queries and keys."""
        positions = self.config.get("no_rope_layers")
        return positions is None or bool(positions[index])

    def window_of(self, index: int) -> int:
        """Returns the number of tokens that a layer sees; 0: all."""
        windows = self.config.get("windows")
        return int(windows[index]) if windows else 0

    def rotary_table_names(self, index: int) -> tuple[str, ...]:
        """Returns the names of the tables by which a layer rotates queries and keys."""
        if not self.uses_rope(index):
            return ()
        own = self.window_of(index) and self.config.get("window_rope_parameters")
        return _WINDOW_TABLES if own else _TABLES

    def attention_attributes(self) -> dict[str, float]:
        """Returns the attributes of attention that define scores, where they are not the usual ones."""
        return {}

    def make_sinks(self, _prefix: str) -> str:
        """Adds one more score for every query head, which belongs to no token; empty without sinks."""
        return ""

    def make_attention(self, stream: ResidualStream, index: int, layer: LayerShape) -> ResidualStream:
        r"""Adds an attention block; returns the residual stream with its output pending.

        Subgraph:

              stream (residual + branch)
                 |            \
               norm         residual
                 |
             qkv products   past_key_values   cos, sin   sinks
                  \            |             /        /
                     GroupQueryAttention
                       |              \
                  o_proj product     present
                       |
                    branch
        """
        writer, prefix = self.writer, layer_prefix(index)
        normed, residual = self.make_block_input(stream, prefix + ATTENTION_NORM)
        queries, keys, values = self.make_qkv(normed, prefix)
        cache: list[str | int] = ["batch", layer.kv_heads, "max_length", self.shape.head_dim]
        parts = [f"{index}.key", f"{index}.value"]
        past = [writer.input(f"past_key_values.{part}", self._cache.kind, cache) for part in parts]
        present = [writer.output(f"present.{part}", self._cache.kind, cache) for part in parts]
        tables, sinks = self.rotary_table_names(index), self.make_sinks(prefix)
        inputs = [queries, keys, values, *past, "seqlens_k", "total_sequence_length", *tables]
        scales = self._cache.make_scales(index, self._order)
        attended = writer.node(
            "GroupQueryAttention",
            [*inputs, *[""] * (_SINK - len(inputs)), sinks, *scales],
            [f"{prefix}attended", *present],
            domain=MICROSOFT,
            num_heads=layer.query_heads,
            kv_num_heads=layer.kv_heads,
            do_rotary=int(bool(tables)),
            local_window_size=self.window_of(index) or -1,
            **self.attention_attributes(),
            **self._cache.attributes,
        )
        biased = self.shape.attention_bias
        return self.make_output_projection(
            attended, residual, prefix + O_PROJ, prefix + ATTENTION_OUTPUT_NORM, biased
        )

    def make_qkv(self, normed: str, prefix: str) -> tuple[str, str, str]:
        """Adds the products that attention reads.

        Returns:
            Queries, keys and values; in one, and two empty names, where no norm comes between and graphs are
            not nested.
        """
        biased = self.shape.attention_bias or self.shape.qkv_bias
        modules = [prefix + name for name in (Q_PROJ, K_PROJ, V_PROJ)]
        if not (self.shape.qk_norm or self.writer.nested):
            return self.make_linear(normed, f"{prefix}qkv", modules, biased), "", ""
        q, k, v = (self.make_linear(normed, module, [module], biased) for module in modules)
        if not self.shape.qk_norm:
            return q, k, v
        norm = self.make_layernorm if self.shape.qk_norm_whole else self.make_head_norm
        return norm(q, prefix + Q_NORM), norm(k, prefix + K_NORM), v

    def make_head_norm(self, value: str, module: str) -> str:
        """Adds an RMS norm of every head by itself.

        GroupQueryAttention's own has no CPU kernel.

        Subgraph:

        value -> Reshape [.., heads, H] -> RMSNormalization -> Reshape [.., heads * H]
        """
        heads, flat = (
            self.writer.constant(f"{module}.{name}", torch.tensor(dims))
            for name, dims in (("heads", [0, 0, -1, self.shape.head_dim]), ("flat", [0, 0, -1]))
        )
        split = self.writer.node("Reshape", [value, heads], [f"{module}.split"])
        normed = self.make_layernorm(split, module)
        return self.writer.node("Reshape", [normed, flat], [f"{module}.joined"])

    def make_ffn(self, stream: ResidualStream, index: int) -> ResidualStream:
        """Adds an FFN block with its norm."""
        prefix = layer_prefix(index)
        normed, residual = self.make_block_input(stream, prefix + FFN_NORM)
        return self.make_mlp(normed, residual, prefix)

    def make_mlp(self, normed: str, residual: str, prefix: str) -> ResidualStream:
        r"""Adds an FFN behind its norm; returns the residual stream with its output pending.

        Subgraph:

                normed
               /      \
           gate_proj  up_proj
              |         |
          activation    |
               \       /
                  Mul
                   |
               down_proj
                   |
                branch
        """
        biased = self.shape.mlp_bias
        up = self.make_linear(normed, prefix + UP_PROJ, [prefix + UP_PROJ], biased)
        if self.shape.gate:
            gate = self.make_linear(normed, prefix + GATE_PROJ, [prefix + GATE_PROJ], biased)
            inner = self.writer.node("Mul", [self.make_activation(gate, prefix), up], [f"{prefix}gated"])
        else:
            inner = self.make_activation(up, prefix)
        return self.make_output_projection(
            inner, residual, prefix + DOWN_PROJ, prefix + FFN_OUTPUT_NORM, biased
        )

    def make_activation(self, value: str, prefix: str) -> str:
        """Adds the activation of an FFN."""
        return self.writer.node("QuickGelu", [value], [f"{prefix}silu"], domain=MICROSOFT, alpha=1.0)

    def make_block_input(self, stream: ResidualStream, module: str) -> tuple[str, str]:
        """Adds the norm before a block, if there is one; returns what the block reads, and the residual."""
        if self.shape.norm_before:
            return self.make_skip_layernorm(stream, module)
        whole = self.make_residual_sum(stream, f"{module}.stream")
        return whole, whole

    def make_residual_sum(self, stream: ResidualStream, name: str) -> str:
        """Adds up the residual stream."""
        total = stream.residual
        for part in (stream.branch, stream.branch_bias):
            total = self.writer.node("Add", [total, part], [f"{name}.{part}"]) if part else total
        return total

    def make_layernorm(self, value: str, module: str) -> str:
        """Adds a norm over the last axis."""
        inputs = [value, self.make_norm_weight(module)]
        return self.writer.node(
            "RMSNormalization", inputs, [f"{module}.normed"], axis=-1, epsilon=self.epsilon
        )

    def make_norm_weight(self, module: str) -> str:
        name = f"{module}.weight"
        return self.writer.weight(name, self.tensor(name) + self.shape.norm_offset)

    def make_skip_layernorm(self, stream: ResidualStream, module: str) -> tuple[str, str]:
        """Adds a norm that first adds the pending branch to the residual; returns (normed, residual)."""
        if not stream.branch:
            return self.make_layernorm(stream.residual, module), stream.residual
        gamma = self.make_norm_weight(module)
        residual = f"{module}.residual"
        normed = self.writer.node(
            "SkipSimplifiedLayerNormalization",
            [stream.residual, stream.branch, gamma, stream.branch_bias],
            [f"{module}.normed", "", "", residual],
            domain=MICROSOFT,
            epsilon=self.epsilon,
        )
        return normed, residual

    def make_output_projection(
        self, value: str, residual: str, module: str, norm: str, biased: bool
    ) -> ResidualStream:
        """Adds a block's output projection and the norm that may follow it; returns the residual stream."""
        if self.shape.norm_after:
            return ResidualStream(
                residual, self.make_layernorm(self.make_linear(value, module, [module], biased), norm)
            )
        branch = self.make_linear(value, module, [module], False)
        return ResidualStream(residual, branch, self.make_weight(f"{module}.bias") if biased else "")

    def make_linear(self, value: str, name: str, modules: list[str], biased: bool) -> str:
        """Adds a product with the stacked weights of `modules`, which checkpoints store as [out, in]."""
        product = self.matrices.make_matmul(value, name, self._stack(modules, "weight"))
        if not biased:
            return product
        bias = self.writer.weight(f"{name}.bias", values_of(self._stack(modules, "bias")))
        return self.writer.node("Add", [product, bias], [f"{name}.sum"])

    def _stack(self, modules: list[str], kind: str) -> Matrix:
        return stack_rows([self._reordered(module, f"{module}.{kind}") for module in modules])

    def _reordered(self, module: str, name: str) -> Matrix:
        """Returns a tensor, its rows, of queries and keys, in the order that a rotation of the head needs."""
        value = self._matrix(name)
        if self._order is None or not module.endswith((Q_PROJ, K_PROJ)):
            return value
        rows = torch.arange(len(value)).unflatten(0, (-1, self.shape.head_dim))
        return value[rows[:, self._order].flatten()]

    def _matrix(self, name: str) -> Matrix:
        """Returns a tensor in codes, where it was rounded so, or its values."""
        return self._quantized(name) or self.tensor(name)

    def make_weight(self, name: str) -> str:
        return self.writer.weight(name, self.tensor(name))
