"""About how long trials take, before a weight is read."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from lathe.artefact.plan import ModelShape
from lathe.compressor.pipeline.forecast import (
    COLLECTING,
    GAUSS_NEWTON,
    REFINING,
    SOLVING,
    STEPPING,
    VERIFYING,
)
from lathe.compressor.pipeline.options import CompressOptions
from lathe.compressor.pipeline.reconstruct import block_tokens
from lathe.compressor.reconstruction.kl_steps import MOST_TOKENS
from lathe.compressor.search.method_choice import chosen_method
from lathe.compressor.tuning.fidelity import fewer_tokens
from lathe.compressor.tuning.space import TuningSpace, option_values

_EVALUATED = 16_384
_SEARCHED = 60.0
"""The cost of the search in forward passes over 1,024 tokens for each layer."""
_ROWS = 512


def estimated_seconds(
    options: CompressOptions, shape: ModelShape, space: TuningSpace, trials: int, halving: bool
) -> float:
    """Returns about how many seconds so many trials take: by the products of a forward pass.

    It is of no more use than to tell minutes from hours. What is measured, a latency table and plans, comes
    on top of it.
    """
    token = _seconds_per_token(shape)
    middle = space.at(tuple(len(values) // 2 for values in space.values.values()))

    def cost(values: Mapping[str, Any]) -> float:
        return token * _passes(replace(options, **option_values(values)), shape)

    default, usual = cost(space.given), cost(middle)
    tokens = middle.get("calibration-tokens", options.calibration_tokens)
    fewer = fewer_tokens(tokens) if halving and isinstance(tokens, int) else None
    if fewer:
        usual = cost(middle | {"calibration-tokens": fewer}) + usual / 2
    return default + (trials - 1) * usual


def _passes(options: CompressOptions, shape: ModelShape) -> float:
    """Returns the cost of a run in forward passes of a token."""
    method, tokens = chosen_method(options.method, shape, options.refinements), options.calibration_tokens
    solved = min(tokens, block_tokens(shape)) if method.on_samples else tokens
    solving = GAUSS_NEWTON if method.reconstruction == "gauss-newton" else SOLVING[False]
    round_ = STEPPING * min(tokens, MOST_TOKENS) if method.in_steps else REFINING * tokens
    fixed = _SEARCHED * 1024 + VERIFYING * _EVALUATED
    return fixed + COLLECTING[False] * tokens + solving * solved + method.whole_rounds * round_


def _seconds_per_token(shape: ModelShape) -> float:
    """Returns about the seconds that the products of one token take here."""
    layer = shape.layer
    hidden, weight = torch.ones(_ROWS, shape.hidden_size), torch.ones(shape.hidden_size, max(layer.ffn, 1))
    _ = hidden @ weight
    start = time.perf_counter()
    _ = hidden @ weight
    seconds = time.perf_counter() - start
    return seconds / _ROWS * shape.parameters(shape.dense_plan) / weight.numel()
