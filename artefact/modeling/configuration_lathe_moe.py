"""Configuration of an uneven mixture of experts: widths per layer, blocks dropped.

This file is shipped inside checkpoints and imports nothing of Lathe but its neighbour.
"""

from __future__ import annotations

from huggingface_hub.dataclasses import strict

from .configuration_lathe_llama import LatheLlamaConfig


@strict
class LatheMoeConfig(LatheLlamaConfig):
    """A mixture of experts in the settings of an uneven Llama.

    Every FFN has `experts` experts, a number that may differ by layer as widths do. Each is as wide as the
    layer's `intermediate_size`. A token uses `experts_per_token` of them; with `normalised_shares` its
    routing weights add up to 1.
    """

    model_type = "lathe_moe"

    experts: int = 8
    experts_per_token: int = 2
    normalised_shares: bool = True

    def rows(self, tensor: str) -> int | None:
        """Returns the rows that this model has of a tensor; experts stand one after the other in theirs."""
        return None if ".mlp." in tensor else super().rows(tensor)

    def validate_architecture(self) -> None:
        """Checks what a Llama checks, and that every layer has as many experts as a token uses.

        Raises:
            ValueError: One of these does not hold.
        """
        super().validate_architecture()
        for index, layer in enumerate(self.per_layer_config):
            if layer.experts < self.experts_per_token:
                raise ValueError(
                    f"layer {index}: {layer.experts} experts, of which a token uses {self.experts_per_token}"
                )


__all__ = ["LatheMoeConfig"]
