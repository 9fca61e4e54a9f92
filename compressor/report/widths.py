"""How wide an FFN is, in words and as a number."""

from __future__ import annotations

from collections.abc import Mapping


def channels(layer: Mapping[str, int], form: str = "") -> str:
    """Its channels; of experts, how many of how many channels. form: of numbers."""
    width = format(layer["ffn"], form)
    return f"{layer['experts']} x {width}" if "experts" in layer else width


def channel_count(layer: Mapping[str, int]) -> int:
    """Of all experts together."""
    return layer["ffn"] * layer.get("experts", 1)
