"""What a GGUF file is made of but weights: the config, the dimensions and the widths of every layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lathe.artefact.plan import ModelShape, Plan


@dataclass(frozen=True)
class Subnet:
    """A model to write.

    Attributes:
        config: The dense model's, as one of ours (`Family.read`).
        shape: The dense model's dimensions.
        plan: The widths of every layer.
    """

    config: Mapping[str, Any]
    shape: ModelShape
    plan: Plan

    @property
    def even(self) -> bool:
        """True if all layers have both blocks, and the same widths."""
        return not self.plan.uneven and all(layer.kv_heads and layer.ffn for layer in self.plan)

    @property
    def rope(self) -> Mapping[str, Any]:
        """What config.json says of rotary positions."""
        found = self.config.get("rope_parameters") or self.config.get("rope_scaling") or {}
        theta = found.get("rope_theta", self.config.get("rope_theta", 10_000.0))
        kind = found.get("rope_type", found.get("type", "default"))
        return {**found, "rope_theta": float(theta), "rope_type": kind}

    @property
    def windows(self) -> list[int]:
        """The tokens that each layer attends to; 0: all."""
        return list(self.config.get("windows") or [0] * self.shape.num_layers)
