"""What a GPT-NeoX has otherwise than a Llama: LayerNorms, GELU, blocks that read the same."""

from __future__ import annotations

from lathe.artefact.plan import LayerShape
from lathe.compressor.export.onnx.decoder import Stream
from lathe.compressor.export.onnx.decoder_layernorm import LayerNormDecoder
from lathe.compressor.model.names import FFN_NORM, layer_prefix


class NeoxDecoder(LayerNormDecoder):
    activations = ("gelu",)

    def _layer(self, stream: Stream, index: int, layer: LayerShape) -> Stream:
        if not self.config.get("parallel_blocks") or not layer.kv_heads or not layer.ffn:
            return super()._layer(stream, index, layer)
        prefix = layer_prefix(index)
        after = self._attention(stream, index, layer)
        normed = self._plain_norm(after.residual, prefix + FFN_NORM)
        return self._fed(normed, self._whole(after, f"{prefix}attention_added"), prefix)

    def _active(self, value: str, prefix: str) -> str:
        return self.writer.node("Gelu", [value], [f"{prefix}active"])
