"""Decoders whose FFNs are mixtures of experts, of which a token uses a few.

Shapes: D model width, E experts, F channels of each.
"""

from __future__ import annotations

from typing import Any

import torch

from lathe.compressor.export.onnx.decoder import Decoder, ResidualStream
from lathe.compressor.export.onnx.matrices import Experts, Plain
from lathe.compressor.model.names import DOWN_PROJ, GATE_PROJ, ROUTER, SHARE_PROJ, SINKS, UP_PROJ


class MoeDecoder(Decoder):
    """Routes every token to a few experts."""

    def make_mlp(self, normed: str, residual: str, prefix: str) -> ResidualStream:
        r"""Adds an FFN of experts; returns the residual stream with its output pending.

        Subgraph:

                normed
                |     \
                |    router
                |       |
                |    Reshape [tokens, E]
                 \     /
                MoE or QMoE
                    |
                  branch
        """
        writer, router = self.writer, prefix + ROUTER
        weight_ED = self.tensor(f"{router}.weight")
        logits, count = Plain(writer).make_matmul(normed, router, weight_ED), len(weight_ED)
        if self.shape.router_bias:
            logits = writer.node("Add", [logits, self.make_weight(f"{router}.bias")], [f"{router}.sum"])
        rows = writer.constant(f"{prefix}router.rows", torch.tensor([-1, count]))
        experts = Experts(
            normed,
            writer.node("Reshape", [logits, rows], [f"{prefix}router.logits"]),
            self._stack_gate_up(prefix, "weight", count),
            self.tensor(f"{prefix}{DOWN_PROJ}.weight").unflatten(1, (count, -1)).transpose(0, 1),
            {
                "k": self.config["experts_per_token"],
                "normalize_routing_weights": int(self.config["normalised_shares"]),
                "activation_type": "swiglu",
                "swiglu_fusion": 1,
                **self.activation_attributes(),
            },
            self._stack_gate_up(prefix, "bias", count) if self.shape.mlp_bias else None,
            self.tensor(f"{prefix}{SHARE_PROJ}.weight").T if self.shape.mlp_bias else None,
        )
        return ResidualStream(residual, self.matrices.make_moe(experts, f"{prefix}experts"))

    def activation_attributes(self) -> dict[str, Any]:
        """Returns the attributes of the operator that define the gate and what it multiplies."""
        return {"activation_alpha": 1.0, "activation_beta": 0.0}

    def _stack_gate_up(self, prefix: str, kind: str, experts: int) -> torch.Tensor:
        """Returns [E, 2F, D], or [E, 2F] of biases: rows of gate and up, interleaved."""
        names = (f"{prefix}{name}.{kind}" for name in (GATE_PROJ, UP_PROJ))
        gate, up = (self.tensor(name).unflatten(0, (experts, -1)) for name in names)
        return torch.stack([gate, up], 2).flatten(1, 2)


class GptOssDecoder(MoeDecoder):
    """Has attention sinks and bounded gates."""

    def make_sinks(self, prefix: str) -> str:
        return self.make_weight(prefix + SINKS)

    def activation_attributes(self) -> dict[str, Any]:
        alpha, limit = self.config["swiglu_alpha"], self.config["swiglu_limit"]
        return {"activation_alpha": alpha, "activation_beta": 1.0, "swiglu_limit": limit}
