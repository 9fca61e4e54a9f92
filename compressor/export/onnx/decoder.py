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
from lathe.compressor.export.onnx.matrices import Matrices
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
"""Where GroupQueryAttention has them among its inputs."""


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
        shape: ModelShape,
        tensor: Tensors,
        matrices: Matrices,
    ) -> None:
        self.writer, self.config = writer, config
        self.shape, self.tensor, self.matrices = shape, tensor, matrices
        self.epsilon = float(config.get("rms_norm_eps", 1e-6))
        self._order = rotated_first(config, shape.head_dim)

    def build(self, plan: Plan) -> None:
        writer, shape = self.writer, self.shape
        ids = writer.input("input_ids", TensorProto.INT64, ["batch", "sequence"])
        writer.input("seqlens_k", TensorProto.INT32, ["batch"])
        writer.input("total_sequence_length", TensorProto.INT32, [])
        wanted = writer.input("logits_at", TensorProto.INT64, ["rows", 2])
        logits = writer.output("logits", TensorProto.FLOAT, ["rows", shape.vocab_size])
        embedding = f"{EMBEDDING}.weight"
        embedded = self.matrices.embed(ids, embedding, self.tensor(embedding))
        stream = Stream(self._positioned(embedded, ids))
        with_attention = [i for i, layer in enumerate(plan.layers) if layer.kv_heads]
        for names in sorted({tables for i in with_attention if (tables := self._tables(i))}):
            windowed = names == _WINDOW_TABLES
            for name, table in zip(names, rotary_tables(self.config, shape.head_dim, windowed), strict=True):
                writer.constant(name, table)
        for index, layer in enumerate(plan.layers):
            stream = self._layer(stream, index, layer)
        normed, _ = self._norm(stream, FINAL_NORM)
        rows = writer.node("GatherND", [normed, wanted], ["rows"])
        self._logits(rows, logits)

    def _layer(self, stream: Stream, index: int, layer: LayerShape) -> Stream:
        if layer.kv_heads:
            stream = self._attention(stream, index, layer)
        return self._ffn(stream, index) if layer.ffn else stream

    def _logits(self, rows: str, output: str) -> None:
        head = f"{LM_HEAD}.weight"
        weight = None if self.shape.tied_embeddings else self.tensor(head)
        self.matrices.logits(rows, output, head, weight)

    def _positioned(self, embedded: str, _ids: str) -> str:
        """What the first layer reads."""
        return embedded

    def _rotates(self, index: int) -> bool:
        """Whether queries and keys of a layer are rotated."""
        positions = self.config.get("no_rope_layers")
        return positions is None or bool(positions[index])

    def _window(self, index: int) -> int:
        """How many tokens a layer sees; 0: all."""
        windows = self.config.get("windows")
        return int(windows[index]) if windows else 0

    def _tables(self, index: int) -> tuple[str, ...]:
        """The tables that a layer's queries and keys are rotated by."""
        if not self._rotates(index):
            return ()
        own = self._window(index) and self.config.get("window_rope_parameters")
        return _WINDOW_TABLES if own else _TABLES

    def _scores(self) -> dict[str, float]:
        """Attributes of attention that say how scores are made, where not as usual."""
        return {}

    def _sinks(self, _prefix: str) -> str:
        """A score more for every query head, that belongs to no token."""
        return ""

    def _attention(self, stream: Stream, index: int, layer: LayerShape) -> Stream:
        writer, prefix = self.writer, layer_prefix(index)
        normed, residual = self._incoming(stream, prefix + ATTENTION_NORM)
        queries, keys, values = self._projected(normed, prefix)
        cache: list[str | int] = ["batch", layer.kv_heads, "max_length", self.shape.head_dim]
        parts = [f"{index}.key", f"{index}.value"]
        past = [writer.input(f"past_key_values.{part}", TensorProto.FLOAT, cache) for part in parts]
        present = [writer.output(f"present.{part}", TensorProto.FLOAT, cache) for part in parts]
        tables, sinks = self._tables(index), self._sinks(prefix)
        inputs = [queries, keys, values, *past, "seqlens_k", "total_sequence_length", *tables]
        attended = writer.node(
            "GroupQueryAttention",
            [*inputs, *[""] * (_SINK - len(inputs)), sinks] if sinks else inputs,
            [f"{prefix}attended", *present],
            domain=MICROSOFT,
            num_heads=layer.query_heads,
            kv_num_heads=layer.kv_heads,
            do_rotary=int(bool(tables)),
            local_window_size=self._window(index) or -1,
            **self._scores(),
        )
        biased = self.shape.attention_bias
        return self._branch(attended, residual, prefix + O_PROJ, prefix + ATTENTION_OUTPUT_NORM, biased)

    def _projected(self, normed: str, prefix: str) -> tuple[str, str, str]:
        """What attention reads: queries, keys and values in one where no norm comes between."""
        biased = self.shape.attention_bias or self.shape.qkv_bias
        modules = [prefix + name for name in (Q_PROJ, K_PROJ, V_PROJ)]
        if not self.shape.qk_norm:
            return self._linear(normed, f"{prefix}qkv", modules, biased), "", ""
        q, k, v = (self._linear(normed, module, [module], biased) for module in modules)
        norm = self._plain_norm if self.shape.qk_norm_whole else self._head_norm
        return norm(q, prefix + Q_NORM), norm(k, prefix + K_NORM), v

    def _head_norm(self, value: str, module: str) -> str:
        """RMS normalisation of every head by itself. (GroupQueryAttention's own has no CPU kernel.)"""
        heads, flat = (
            self.writer.constant(f"{module}.{name}", torch.tensor(dims))
            for name, dims in (("heads", [0, 0, -1, self.shape.head_dim]), ("flat", [0, 0, -1]))
        )
        split = self.writer.node("Reshape", [value, heads], [f"{module}.split"])
        normed = self._plain_norm(split, module)
        return self.writer.node("Reshape", [normed, flat], [f"{module}.joined"])

    def _ffn(self, stream: Stream, index: int) -> Stream:
        prefix = layer_prefix(index)
        normed, residual = self._incoming(stream, prefix + FFN_NORM)
        return self._fed(normed, residual, prefix)

    def _fed(self, normed: str, residual: str, prefix: str) -> Stream:
        """The residual stream and what an FFN makes of its input."""
        biased = self.shape.mlp_bias
        up = self._linear(normed, prefix + UP_PROJ, [prefix + UP_PROJ], biased)
        if self.shape.gate:
            gate = self._linear(normed, prefix + GATE_PROJ, [prefix + GATE_PROJ], biased)
            inner = self.writer.node("Mul", [self._active(gate, prefix), up], [f"{prefix}gated"])
        else:
            inner = self._active(up, prefix)
        return self._branch(inner, residual, prefix + DOWN_PROJ, prefix + FFN_OUTPUT_NORM, biased)

    def _active(self, value: str, prefix: str) -> str:
        """The activation of an FFN."""
        return self.writer.node("QuickGelu", [value], [f"{prefix}silu"], domain=MICROSOFT, alpha=1.0)

    def _incoming(self, stream: Stream, module: str) -> tuple[str, str]:
        """(what a block reads, residual)."""
        if self.shape.norm_before:
            return self._norm(stream, module)
        whole = self._whole(stream, f"{module}.stream")
        return whole, whole

    def _whole(self, stream: Stream, name: str) -> str:
        """The residual stream with everything added up."""
        total = stream.residual
        for part in (stream.branch, stream.branch_bias):
            total = self.writer.node("Add", [total, part], [f"{name}.{part}"]) if part else total
        return total

    def _plain_norm(self, value: str, module: str) -> str:
        """A norm over the last axis."""
        inputs = [value, self._gamma(module)]
        return self.writer.node(
            "RMSNormalization", inputs, [f"{module}.normed"], axis=-1, epsilon=self.epsilon
        )

    def _gamma(self, module: str) -> str:
        name = f"{module}.weight"
        return self.writer.weight(name, self.tensor(name) + self.shape.norm_offset)

    def _norm(self, stream: Stream, module: str) -> tuple[str, str]:
        """(normed, residual): the pending branch is added to the residual on the way."""
        if not stream.branch:
            return self._plain_norm(stream.residual, module), stream.residual
        gamma = self._gamma(module)
        residual = f"{module}.residual"
        normed = self.writer.node(
            "SkipSimplifiedLayerNormalization",
            [stream.residual, stream.branch, gamma, stream.branch_bias],
            [f"{module}.normed", "", "", residual],
            domain=MICROSOFT,
            epsilon=self.epsilon,
        )
        return normed, residual

    def _branch(self, value: str, residual: str, module: str, norm: str, biased: bool) -> Stream:
        """The residual stream and what a block adds to it; `norm` is the module that may follow."""
        if self.shape.norm_after:
            return Stream(residual, self._plain_norm(self._linear(value, module, [module], biased), norm))
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
        parts = [self._ordered(module, self.tensor(f"{module}.{kind}")) for module in modules]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _ordered(self, module: str, value: torch.Tensor) -> torch.Tensor:
        """Rows of queries and keys in the order that a rotation of the whole head wants."""
        if self._order is None or not module.endswith((Q_PROJ, K_PROJ)):
            return value
        return value.unflatten(0, (-1, self.shape.head_dim))[:, self._order].flatten(0, 1)

    def _weight(self, name: str) -> str:
        return self.writer.weight(name, self.tensor(name))
