"""What an OPT has otherwise than a Llama: learned positions, LayerNorms, ReLU."""

from __future__ import annotations

import torch
from onnx import TensorProto

from lathe.compressor.export.onnx.decoder_layernorm import LayerNormDecoder
from lathe.compressor.model.names import POSITIONS


class OptDecoder(LayerNormDecoder):
    activations = ("relu",)

    def _rotates(self, _index: int) -> bool:
        return False

    def _positioned(self, embedded: str, _ids: str) -> str:
        """Of a row that is decoded the tokens end at `seqlens_k`. Where a batch of prompts is read, shorter
        ones are filled up, and each begins at 0.
        """
        writer = self.writer
        table = self._weight(f"{POSITIONS}.weight")
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

    def _active(self, value: str, prefix: str) -> str:
        return self.writer.node("Relu", [value], [f"{prefix}active"])
