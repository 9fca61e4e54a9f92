"""Decoders that differ from a Llama's: LayerNorms, learned positions, soft caps, parallel blocks."""

from __future__ import annotations

import torch
from onnx import TensorProto

from lathe.artefact.plan import LayerShape
from lathe.compressor.export.onnx.decoder import Decoder, ResidualStream
from lathe.compressor.export.onnx.writer import MICROSOFT
from lathe.compressor.model.names import FFN_NORM, POSITIONS, layer_prefix


class GemmaDecoder(Decoder):
    """Scales embeddings, caps scores and logits, and has GELU and scores on their own scale."""

    activations = ("gelu_pytorch_tanh",)

    def make_embedding(self, ids: str) -> str:
        embedded = super().make_embedding(ids)
        scale = self.writer.constant("embedding.scale", torch.tensor(self.shape.hidden_size**0.5))
        return self.writer.node("Mul", [embedded, scale], ["scaled"])

    def attention_attributes(self) -> dict[str, float]:
        cap = self.config["attn_logit_softcapping"] or 0.0
        return {"scale": float(self.config["query_pre_attn_scalar"]) ** -0.5, "softcap": float(cap)}

    def make_activation(self, value: str, prefix: str) -> str:
        return self.writer.node("Gelu", [value], [f"{prefix}active"], approximate="tanh")

    def make_lm_head(self, rows: str, output: str) -> None:
        """Adds the head: `output` is cap * tanh(logits / cap)."""
        limit = self.config["final_logit_softcapping"]
        if limit is None:
            super().make_lm_head(rows, output)
            return
        cap = self.writer.constant("logits.cap", torch.tensor(float(limit)))
        super().make_lm_head(rows, "logits.free")
        share = self.writer.node("Div", ["logits.free", cap], ["logits.share"])
        bounded = self.writer.node("Tanh", [share], ["logits.bounded"])
        self.writer.node("Mul", [bounded, cap], [output])


class LayerNormDecoder(Decoder):
    """Has LayerNorms, which have biases."""

    def make_layernorm(self, value: str, module: str) -> str:
        inputs = [value, self.make_norm_weight(module), self.make_weight(f"{module}.bias")]
        return self.writer.node(
            "LayerNormalization", inputs, [f"{module}.normed"], axis=-1, epsilon=self.epsilon
        )

    def make_skip_layernorm(self, stream: ResidualStream, module: str) -> tuple[str, str]:
        if not stream.branch:
            return self.make_layernorm(stream.residual, module), stream.residual
        gamma, beta = self.make_norm_weight(module), self.make_weight(f"{module}.bias")
        residual = f"{module}.residual"
        normed = self.writer.node(
            "SkipLayerNormalization",
            [stream.residual, stream.branch, gamma, beta, stream.branch_bias],
            [f"{module}.normed", "", "", residual],
            domain=MICROSOFT,
            epsilon=self.epsilon,
        )
        return normed, residual


class NeoxDecoder(LayerNormDecoder):
    """Has GELU and, where a model says so, parallel blocks: both read the layer's input."""

    activations = ("gelu",)

    def make_layer(self, stream: ResidualStream, index: int, layer: LayerShape) -> ResidualStream:
        r"""Adds a layer.

        Where its blocks are parallel:

                       residual
                      /    |    \
              LayerNorm    |    LayerNorm
                  |        |        |
              attention    |       FFN
                      \    |    /
                        residual
        """
        if not self.config.get("parallel_blocks") or not layer.kv_heads or not layer.ffn:
            return super().make_layer(stream, index, layer)
        prefix = layer_prefix(index)
        after = self.make_attention(stream, index, layer)
        normed = self.make_layernorm(after.residual, prefix + FFN_NORM)
        return self.make_mlp(normed, self.make_residual_sum(after, f"{prefix}attention_added"), prefix)

    def make_activation(self, value: str, prefix: str) -> str:
        return self.writer.node("Gelu", [value], [f"{prefix}active"])


class OptDecoder(LayerNormDecoder):
    """Has learned positions and ReLU."""

    activations = ("relu",)

    def uses_rope(self, _index: int) -> bool:
        return False

    def make_embedding(self, ids: str) -> str:
        return self.writer.node(
            "Add", [super().make_embedding(ids), self._make_positions(ids)], ["positioned"]
        )

    def _make_positions(self, ids: str) -> str:
        """Adds the look-up of the learned positions.

        The tokens of a row that is decoded end at `seqlens_k`. Where a batch of prompts is read, shorter ones
        are filled up, and each begins at 0.
        """
        writer = self.writer
        table = self.make_weight(f"{POSITIONS}.weight")
        one = writer.constant("positions.one", torch.ones((), dtype=torch.int64))
        zero = writer.constant("positions.zero", torch.zeros((), dtype=torch.int64))
        axis = writer.constant("positions.axis", torch.ones(1, dtype=torch.int64))
        length = writer.node("Shape", [ids], ["positions.shape"], start=1, end=2)
        length = writer.node("Squeeze", [length], ["positions.length"])
        lasts = writer.node("Cast", ["seqlens_k"], ["positions.lasts"], to=TensorProto.INT64)
        ends = writer.node("Add", [lasts, one], ["positions.ends"])
        before = writer.node("Sub", [ends, length], ["positions.before"])
        starts = writer.node("Max", [before, zero], ["positions.starts"])
        column = writer.node("Unsqueeze", [starts, axis], ["positions.column"])
        steps = writer.node("Range", [zero, length, one], ["positions.steps"])
        positions = writer.node("Add", [column, steps], ["positions.all"])
        return writer.node("Gather", [table, positions], ["positions.embedded"])

    def make_activation(self, value: str, prefix: str) -> str:
        return self.writer.node("Relu", [value], [f"{prefix}active"])
