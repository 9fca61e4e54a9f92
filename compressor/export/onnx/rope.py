"""Rotary tables, made by transformers' own code so that every scaling matches it exactly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from lathe.artefact.checkpoint_config import max_positions
from lathe.artefact.errors import UserError
from lathe.compressor.model.families.refusals import rope_of

_POSITIONAL = (
    "rope_parameters",
    "rope_theta",
    "rope_scaling",
    "original_max_position_embeddings",
    "partial_rotary_factor",
    "window_rope_parameters",
)
_FIXED_TYPES = ("default", "linear", "llama3", "yarn")


def check_rope(config: Mapping[str, Any]) -> None:
    """Refuses what a fixed table cannot reproduce.

    Raises:
        UserError: a rope type whose frequencies change with the sequence length.
    """
    for parameters in (rope_of(config), config.get("window_rope_parameters") or {}):
        rope_type = parameters.get("rope_type", parameters.get("type", "default"))
        if rope_type not in _FIXED_TYPES:
            raise UserError(
                f"rope type `{rope_type}` cannot be exported to ONNX: a fixed table cannot reproduce it",
                f"Supported: {', '.join(_FIXED_TYPES)}.",
            )


def rotary_tables(
    config: Mapping[str, Any], head_dim: int, windowed: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns cosines and sines of layers without or with a window.

    They are float32 [max_position_embeddings, head_dim / 2], attention scaling included. Values of a head
    that are not rotated, in the order of `rotated_first`, have angles of 0. `config` must pass `check_rope`.
    """
    from lathe.artefact.modeling import LatheLlamaConfig
    from lathe.artefact.modeling.modeling_lathe_llama import rotary

    positions = max_positions(config)
    ours = LatheLlamaConfig(
        hidden_size=head_dim,
        num_attention_heads=1,
        num_hidden_layers=1,
        head_dim=head_dim,
        max_position_embeddings=positions,
        windows=[int(windowed)],
        **{key: config[key] for key in _POSITIONAL if config.get(key) is not None},
    )
    cos, sin = rotary(ours, ours.rope(0))(torch.zeros(1), torch.arange(positions)[None])
    half, left = cos.shape[-1] // 2, (head_dim - cos.shape[-1]) // 2
    turned = (cos[0, :, :half], sin[0, :, :half])
    still = (torch.ones(positions, left), torch.zeros(positions, left))
    both = [torch.cat(parts, 1) for parts in zip(turned, still, strict=True)]
    return both[0], both[1]


def rotated_first(config: Mapping[str, Any], head_dim: int) -> torch.Tensor | None:
    """Returns the order [head_dim] of a head's values in which the whole head is rotated.

    Pairs are half a head apart, and values that the model does not rotate have an angle of 0. None if the
    model rotates all values. (The operator needs rotated parts of multiples of 16; not every model has
    these.)
    """
    share = rope_of(config).get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1
    rotated = int(head_dim * share)
    if rotated == head_dim:
        return None
    first, second = torch.arange(rotated).chunk(2)
    third, fourth = torch.arange(rotated, head_dim).chunk(2)
    return torch.cat([first, third, second, fourth])
