"""What one-bit weights take, counted to the bit.

Papers state signs alone: 1.08 bits per weight for BiLLM. What has to be stored to have the weights back also
holds masks, which say what group a weight is in, and the groups' scales and means: 2.9 bits per weight.
"""

from __future__ import annotations

from dataclasses import dataclass

SCALE_BITS = 16
"""Of a scale or a mean."""


@dataclass(frozen=True)
class Storage:
    """Counts of what is stored of some weights.

    Attributes:
        weights: The weights.
        signs: Bits that are signs.
        masks: Bits that say what group a weight, or what kind a column, is of.
        scales: Scales and means.
    """

    weights: int = 0
    signs: int = 0
    masks: int = 0
    scales: int = 0

    def __add__(self, other: Storage) -> Storage:
        return Storage(
            self.weights + other.weights,
            self.signs + other.signs,
            self.masks + other.masks,
            self.scales + other.scales,
        )

    @property
    def nominal(self) -> float:
        """Bits per weight as papers state them: signs."""
        return self.signs / self.weights

    @property
    def effective(self) -> float:
        """Bits per weight that are stored."""
        return (self.signs + self.masks + SCALE_BITS * self.scales) / self.weights
