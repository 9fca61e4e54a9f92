"""What a gpt-oss has otherwise than other mixtures of experts: sinks, and bounded gates."""

from __future__ import annotations

from typing import Any

from lathe.compressor.export.onnx.decoder_moe import MoeDecoder
from lathe.compressor.model.names import SINKS


class GptOssDecoder(MoeDecoder):
    def _sinks(self, prefix: str) -> str:
        return self._weight(prefix + SINKS)

    def _gating(self) -> dict[str, Any]:
        alpha, limit = self.config["swiglu_alpha"], self.config["swiglu_limit"]
        return {"activation_alpha": alpha, "activation_beta": 1.0, "swiglu_limit": limit}
