"""Widths that can be served: a search keeps to them, and what breaks them is refused before it is written."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from lathe.artefact.errors import UserError
from lathe.artefact.plan import LayerShape, Plan


@dataclass(frozen=True)
class WidthRules:
    """The rules that the widths of every layer of a model keep; `FREE` allows any.

    Attributes:
        devices: The number of devices that share every layer as vLLM does: each has as many query heads and
            FFN channels as the others; KV heads are shared out, or each is on as many devices as the others.
        heads: Query heads of a device come in multiples of this.
        channels: FFN channels of a device come in multiples of this.
    """

    devices: int = 1
    heads: int = 1
    channels: int = 1

    @classmethod
    def of(cls, devices: int, multiple: int, head_dim: int) -> WidthRules:
        """Returns the rules for kernels of projections that read multiples of `multiple` values."""
        return cls(devices, multiple // math.gcd(multiple, head_dim), multiple)

    def allow_attention(self, query_heads: int, kv_heads: int) -> bool:
        shared_out = kv_heads % self.devices == 0
        copied = kv_heads > 0 and self.devices % kv_heads == 0
        return query_heads % (self.devices * self.heads) == 0 and (shared_out or copied)

    def allow_ffn(self, width: int) -> bool:
        return width % (self.devices * self.channels) == 0

    def allow(self, layer: LayerShape) -> bool:
        return self.allow_attention(layer.query_heads, layer.kv_heads) and self.allow_ffn(layer.ffn)

    def check(self, plan: Plan, name: str = "This plan") -> None:
        """Refuses a plan that breaks them; `name` is what it is called.

        Raises:
            UserError: names the first layer that does, and the numbers of devices or the widths allowed.
        """
        for index, layer in enumerate(plan):
            if not self.allow(layer):
                widths = (
                    f"layer {index} ({layer.query_heads} query heads, {layer.kv_heads} KV heads, "
                    f"{layer.ffn} FFN channels)"
                )
                raise self._refusal(plan, name, widths)

    def _refusal(self, plan: Plan, name: str, widths: str) -> UserError:
        layers = set(plan)
        most = max(max(layer.query_heads, layer.ffn) for layer in layers)
        fitting = [n for n in range(1, most + 1) if all(map(replace(self, devices=n).allow, layers))]
        if fitting:
            sizes = "" if self.channels == 1 else " in sizes that quantized kernels take"
            return UserError(
                f"{self.devices} devices cannot share {widths}{sizes}",
                f"{name} can be served with --tensor-parallel {', '.join(map(str, fitting))}.",
            )
        heads = f"query heads in multiples of {self.heads}, " if self.heads > 1 else ""
        return UserError(
            f"there are no quantized kernels for {widths}",
            f"They take {heads}FFN channels in multiples of {self.channels}.",
        )


FREE = WidthRules()
