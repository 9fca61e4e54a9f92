"""What a mixture of experts has otherwise than a Llama: FFNs of experts, of which a token uses a few.

Shapes: D model width, E experts, F channels of each.
"""

from __future__ import annotations

import torch

from compressor.export.onnx.decoder import Decoder, Stream
from compressor.export.onnx.matrices import Experts, Plain


class MoeDecoder(Decoder):
    def _fed(self, normed: str, residual: str, prefix: str) -> Stream:
        writer, router = self.writer, prefix + self.family.router
        weight_ED = self.tensor(f"{router}.weight")
        logits = Plain(writer).product(normed, router, weight_ED)
        rows = writer.constant(f"{prefix}router.rows", torch.tensor([-1, len(weight_ED)]))
        experts = Experts(
            normed,
            writer.node("Reshape", [logits, rows], [f"{prefix}router.logits"]),
            self._gate_up(prefix, len(weight_ED)),
            self._down(prefix, len(weight_ED)),
            {
                "k": self.config["experts_per_token"],
                "normalize_routing_weights": int(self.config["normalised_shares"]),
                "activation_type": "swiglu",
                "swiglu_fusion": 1,
                "activation_alpha": 1.0,
                "activation_beta": 0.0,
            },
        )
        return Stream(residual, self.matrices.experts(experts, f"{prefix}experts"))

    def _gate_up(self, prefix: str, experts: int) -> torch.Tensor:
        """[E, 2F, D]: rows of gate and up in turn."""
        names = (f"{prefix}{name}.weight" for name in (self.family.gate, self.family.up))
        gate_EFD, up_EFD = (self.tensor(name).unflatten(0, (experts, -1)) for name in names)
        return torch.stack([gate_EFD, up_EFD], 2).flatten(1, 2)

    def _down(self, prefix: str, experts: int) -> torch.Tensor:
        """[E, D, F]."""
        weight = self.tensor(f"{prefix}{self.family.down}.weight")
        return weight.unflatten(1, (experts, -1)).transpose(0, 1)
