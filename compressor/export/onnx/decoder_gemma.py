"""What a Gemma has otherwise than a Llama: scaled embeddings, soft caps, GELU, scores on their own scale."""

from __future__ import annotations

import torch

from lathe.compressor.export.onnx.decoder import Decoder


class GemmaDecoder(Decoder):
    activations = ("gelu_pytorch_tanh",)

    def _positioned(self, embedded: str, _ids: str) -> str:
        scale = self.writer.constant("embedding.scale", torch.tensor(self.shape.hidden_size**0.5))
        return self.writer.node("Mul", [embedded, scale], ["scaled"])

    def _scores(self) -> dict[str, float]:
        cap = self.config["attn_logit_softcapping"] or 0.0
        return {"scale": float(self.config["query_pre_attn_scalar"]) ** -0.5, "softcap": float(cap)}

    def _active(self, value: str, prefix: str) -> str:
        return self.writer.node("Gelu", [value], [f"{prefix}active"], approximate="tanh")

    def _logits(self, rows: str, output: str) -> None:
        limit = self.config["final_logit_softcapping"]
        if limit is None:
            super()._logits(rows, output)
            return
        cap = self.writer.constant("logits.cap", torch.tensor(float(limit)))
        super()._logits(rows, "logits.free")
        share = self.writer.node("Div", ["logits.free", cap], ["logits.share"])
        bounded = self.writer.node("Tanh", [share], ["logits.bounded"])
        self.writer.node("Mul", [bounded, cap], [output])
