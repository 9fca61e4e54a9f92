"""What a mixture of experts has otherwise than a Llama: FFNs of experts, of which a token uses a few.

Shapes: D model width, E experts, F channels of each.
"""

from __future__ import annotations

from typing import Any

import torch

from lathe.compressor.export.onnx.decoder import Decoder, Stream
from lathe.compressor.export.onnx.matrices import Experts, Plain
from lathe.compressor.model.names import DOWN_PROJ, GATE_PROJ, ROUTER, SHARE_PROJ, UP_PROJ


class MoeDecoder(Decoder):
    def _fed(self, normed: str, residual: str, prefix: str) -> Stream:
        writer, router = self.writer, prefix + ROUTER
        weight_ED = self.tensor(f"{router}.weight")
        logits, count = Plain(writer).product(normed, router, weight_ED), len(weight_ED)
        if self.shape.router_bias:
            logits = writer.node("Add", [logits, self._weight(f"{router}.bias")], [f"{router}.sum"])
        rows = writer.constant(f"{prefix}router.rows", torch.tensor([-1, count]))
        experts = Experts(
            normed,
            writer.node("Reshape", [logits, rows], [f"{prefix}router.logits"]),
            self._gate_up(prefix, "weight", count),
            self.tensor(f"{prefix}{DOWN_PROJ}.weight").unflatten(1, (count, -1)).transpose(0, 1),
            {
                "k": self.config["experts_per_token"],
                "normalize_routing_weights": int(self.config["normalised_shares"]),
                "activation_type": "swiglu",
                "swiglu_fusion": 1,
                **self._gating(),
            },
            self._gate_up(prefix, "bias", count) if self.shape.mlp_bias else None,
            self.tensor(f"{prefix}{SHARE_PROJ}.weight").T if self.shape.mlp_bias else None,
        )
        return Stream(residual, self.matrices.experts(experts, f"{prefix}experts"))

    def _gating(self) -> dict[str, Any]:
        """Attributes of the operator that say what a gate is, and what it multiplies."""
        return {"activation_alpha": 1.0, "activation_beta": 0.0}

    def _gate_up(self, prefix: str, kind: str, experts: int) -> torch.Tensor:
        """[E, 2F, D], or [E, 2F] of biases: rows of gate and up in turn."""
        names = (f"{prefix}{name}.{kind}" for name in (GATE_PROJ, UP_PROJ))
        gate, up = (self.tensor(name).unflatten(0, (experts, -1)) for name in names)
        return torch.stack([gate, up], 2).flatten(1, 2)
