"""Sliding windows: which layers attend to the last few tokens only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lathe.artefact.checkpoint_config import max_positions
from lathe.artefact.errors import UserError

WINDOW_SETTINGS = ("sliding_window", "use_sliding_window", "max_window_layers", "layer_types")
Slides = Callable[[Mapping[str, Any], int], bool]
"""(config, layer) -> whether transformers gives the layer the window, where `layer_types` does not say."""


def every_layer(_config: Mapping[str, Any], _layer: int) -> bool:
    """Follows Mistral: transformers' models of these families do not read `layer_types`."""
    return True


def upper_layers(config: Mapping[str, Any], layer: int) -> bool:
    """Follows Qwen: layers from `max_window_layers` on have the window."""
    return layer >= int(config["max_window_layers"])


def all_but_every(nth: int) -> Slides:
    """Follows Gemma and OLMo 3: every nth layer sees everything."""
    return lambda _config, layer: (layer + 1) % nth != 0


def windows(config: Mapping[str, Any], slides: Slides | None) -> dict[str, Any]:
    """Returns our setting `windows`: for each layer the number of tokens that it sees, or 0 for all.

    A token counts itself. Nothing is returned if no layer ever sees less than the whole context, nor has
    other rotary positions.

    Raises:
        UserError: a model has a window that transformers' own of the family would not use.
    """
    window = config.get("sliding_window")
    if not window or not config.get("use_sliding_window", True):
        return {}
    others = config.get("window_rope_parameters")
    if window >= max_positions(config) and not others:
        return {}
    layers = range(int(config["num_hidden_layers"]))
    types = None if slides is every_layer else config.get("layer_types")
    if slides is None:
        if types and "sliding_attention" not in types:
            return {}
        raise UserError(
            f"config.json asks for sliding-window attention over {window} tokens, which is not supported for "
            f"`{config.get('model_type')}`",
            "Lower `max_position_embeddings` to that, where contexts are no longer: the window is then never "
            "in use.",
        )
    sliding = [types[i] == "sliding_attention" if types else slides(config, i) for i in layers]
    return {"windows": [window if slid else 0 for slid in sliding]} if any(sliding) else {}


def ropes_by_window(window_theta: str) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Returns a function that derives the rotary positions of layers without and with a window.

    A config has them by kind of layer, or in the older way: `rope_scaling` is of layers without a window, and
    the base of the others is called `window_theta`.
    """

    def rope(given: Mapping[str, Any] | None, theta: float) -> dict[str, Any]:
        given = given or {}
        return {"rope_type": given.get("type", "default"), "rope_theta": theta, **given}

    def derive(config: Mapping[str, Any]) -> dict[str, Any]:
        given = config.get("rope_parameters") or {"full_attention": config.get("rope_scaling")}
        full = rope(given.get("full_attention"), config["rope_theta"])
        others = rope(given.get("sliding_attention"), config[window_theta])
        return {
            "rope_parameters": full,
            "rope_scaling": None,
            "window_rope_parameters": None if others == full else others,
        }

    return derive
