"""Configuration of an uneven mixture of experts: widths per layer, blocks dropped.

This file is shipped inside checkpoints and imports nothing of Lathe but its neighbour.
"""

from __future__ import annotations

from huggingface_hub.dataclasses import strict

from .configuration_lathe_llama import LatheLlamaConfig


@strict
class LatheMoeConfig(LatheLlamaConfig):
    """A mixture of experts in the settings of an uneven Llama: every FFN is `experts` of them (by layer, as
    widths are), each as wide as the layer's `intermediate_size`, of which a token uses `experts_per_token`;
    with `normalised_shares` their shares add up to 1.
    """

    model_type = "lathe_moe"

    experts: int = 8
    experts_per_token: int = 2
    normalised_shares: bool = True

    def validate_architecture(self) -> None:
        """As of a Llama, and every layer has as many experts as a token uses."""
        super().validate_architecture()
        for index, layer in enumerate(self.per_layer_config):
            if layer.experts < self.experts_per_token:
                raise ValueError(
                    f"layer {index}: {layer.experts} experts, of which a token uses {self.experts_per_token}"
                )


__all__ = ["LatheMoeConfig"]
