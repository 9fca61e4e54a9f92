"""What an OPT has otherwise than a Llama: learned positions, LayerNorms, FFNs of two matrices."""

from __future__ import annotations

import torch
from onnx import TensorProto

from compressor.export.onnx.decoder import Decoder, Stream
from compressor.export.onnx.writer import MICROSOFT


class OptDecoder(Decoder):
    activations = ("relu",)

    def _rotates(self, _index: int) -> bool:
        return False

    def _positioned(self, embedded: str, _ids: str) -> str:
        """Of a row that is decoded the tokens end at `seqlens_k`. Where a batch of prompts is read, shorter
        ones are filled up, and each begins at 0."""
        writer = self.writer
        table = self._weight(f"{self.family.positions}.weight")
        one = writer.constant("positions.one", torch.ones((), dtype=torch.int64))
        zero = writer.constant("positions.zero", torch.zeros((), dtype=torch.int64))
        axis = writer.constant("positions.axis", torch.ones(1, dtype=torch.int64))
        length = writer.node("Shape", [_ids], ["positions.shape"], start=1, end=2)
        length = writer.node("Squeeze", [length], ["positions.length"])
        lasts = writer.node("Cast", ["seqlens_k"], ["positions.lasts"], to=TensorProto.INT64)
        ends = writer.node("Add", [lasts, one], ["positions.ends"])
        before = writer.node("Sub", [ends, length], ["positions.before"])
        starts = writer.node("Max", [before, zero], ["positions.starts"])
        column = writer.node("Unsqueeze", [starts, axis], ["positions.column"])
        steps = writer.node("Range", [zero, length, one], ["positions.steps"])
        positions = writer.node("Add", [column, steps], ["positions.all"])
        found = writer.node("Gather", [table, positions], ["positions.embedded"])
        return writer.node("Add", [embedded, found], ["positioned"])

    def _ffn(self, stream: Stream, index: int) -> Stream:
        family, writer, prefix = self.family, self.writer, self.family.layer_prefix(index)
        normed, residual = self._norm(stream, prefix + family.ffn_norm)
        up = self._linear(normed, prefix + family.up, [prefix + family.up], self.shape.mlp_bias)
        active = writer.node("Relu", [up], [f"{prefix}active"])
        return self._branch(active, residual, prefix + family.down, self.shape.mlp_bias)

    def _norm(self, stream: Stream, module: str) -> tuple[str, str]:
        gamma, beta = self._weight(f"{module}.weight"), self._weight(f"{module}.bias")
        if not stream.branch:
            inputs = [stream.residual, gamma, beta]
            normed = self.writer.node(
                "LayerNormalization", inputs, [f"{module}.normed"], axis=-1, epsilon=self.epsilon
            )
            return normed, stream.residual
        residual = f"{module}.residual"
        normed = self.writer.node(
            "SkipLayerNormalization",
            [stream.residual, stream.branch, gamma, beta, stream.branch_bias],
            [f"{module}.normed", "", "", residual],
            domain=MICROSOFT,
            epsilon=self.epsilon,
        )
        return normed, residual
