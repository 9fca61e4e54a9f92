"""Decoders with LayerNorms, which have biases."""

from __future__ import annotations

from lathe.compressor.export.onnx.decoder import Decoder, Stream
from lathe.compressor.export.onnx.writer import MICROSOFT


class LayerNormDecoder(Decoder):
    def _plain_norm(self, value: str, module: str) -> str:
        inputs = [value, self._gamma(module), self._weight(f"{module}.bias")]
        return self.writer.node(
            "LayerNormalization", inputs, [f"{module}.normed"], axis=-1, epsilon=self.epsilon
        )

    def _norm(self, stream: Stream, module: str) -> tuple[str, str]:
        if not stream.branch:
            return self._plain_norm(stream.residual, module), stream.residual
        gamma, beta, residual = self._gamma(module), self._weight(f"{module}.bias"), f"{module}.residual"
        normed = self.writer.node(
            "SkipLayerNormalization",
            [stream.residual, stream.branch, gamma, beta, stream.branch_bias],
            [f"{module}.normed", "", "", residual],
            domain=MICROSOFT,
            epsilon=self.epsilon,
        )
        return normed, residual
