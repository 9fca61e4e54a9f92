"""Rotary positions: what GGUF says about them, as a config.json has it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lathe.artefact.errors import UserError
from lathe.artefact.gguf.file import GgufModel
from lathe.compressor.model.gguf.quantization import read_values

FREQUENCIES = "rope_freqs.weight"
"""What Llama 3.1 and later divide the frequencies by."""
_LLAMA3 = (8192.0, 4.0)
"""The original context and the factor of high frequencies of all published models; that of low ones is 1."""
_CLOSE = 1e-4
_NEUTRAL = ("attn_factor", "yarn_attn_factor", "yarn_ext_factor")
"""Settings that change nothing when they are 1."""


def rope_parameters(model: GgufModel, head_dim: int) -> dict[str, Any]:
    """Returns `rope_parameters`.

    Raises:
        UserError: The scaling is of a kind that Lathe cannot express.
    """
    prefix = f"{model.architecture}.rope"
    theta = model.get(f"{prefix}.freq_base", float, 10000.0)
    kind = model.get(f"{prefix}.scaling.type", str, "none")
    for key in _NEUTRAL:
        if model.get(f"{prefix}.scaling.{key}", float, 1.0) != 1.0:
            raise _unknown(model, key)
    if FREQUENCIES in model.tensors:
        if kind not in ("none", "llama3"):
            raise _unknown(model, f"{kind} and {FREQUENCIES}")
        return {"rope_theta": theta, **_llama3(model, theta, head_dim)}
    factor = model.get(f"{prefix}.scaling.factor", float, model.get(f"{prefix}.scale_linear", float, 1.0))
    if kind == "none" and factor in (0.0, 1.0):
        return {"rope_theta": theta, "rope_type": "default"}
    if kind in ("linear", "none"):
        return {"rope_theta": theta, "rope_type": "linear", "factor": factor}
    if kind == "yarn":
        return {"rope_theta": theta, **_yarn(model, prefix, factor)}
    raise _unknown(model, kind)


def _yarn(model: GgufModel, prefix: str, factor: float) -> dict[str, Any]:
    found: dict[str, Any] = {"rope_type": "yarn", "factor": factor}
    found["original_max_position_embeddings"] = model.required(
        f"{prefix}.scaling.original_context_length", int
    )
    for key, name in (("yarn_beta_fast", "beta_fast"), ("yarn_beta_slow", "beta_slow")):
        value = model.get(f"{prefix}.scaling.{key}", float)
        found |= {} if value is None else {name: value}
    return found


def _llama3(model: GgufModel, theta: float, head_dim: int) -> dict[str, Any]:
    """Finds the settings of Llama 3 whose divisors of the frequencies the file holds."""
    divisors = read_values(model.tensors[FREQUENCIES]).float().numpy().astype(np.float64)
    if divisors.shape != (head_dim // 2,):
        raise _unknown(model, f"{FREQUENCIES} of shape {list(divisors.shape)}")
    wavelengths = 2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    factor = float(divisors.max())
    for context, high in (_LLAMA3, _fitted(divisors, wavelengths, factor)):
        if np.allclose(_divisors(wavelengths, factor, context, high), divisors, rtol=_CLOSE, atol=0):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": 1.0,
                "high_freq_factor": high,
                "original_max_position_embeddings": round(context),
            }
    raise _unknown(model, FREQUENCIES)


def _divisors(
    wavelengths: np.ndarray[Any, Any], factor: float, context: float, high: float
) -> np.ndarray[Any, Any]:
    """Returns what Llama 3 divides the frequencies by."""
    share = np.clip((context / wavelengths - 1) / (high - 1), 0, 1)
    return np.asarray(1 / ((1 - share) / factor + share))


def _fitted(
    divisors: np.ndarray[Any, Any], wavelengths: np.ndarray[Any, Any], factor: float
) -> tuple[float, float]:
    """Returns the context and the high factor that give the divisors between the smallest and the largest."""
    between = (divisors > 1 + _CLOSE) & (divisors < factor * (1 - _CLOSE))
    if between.sum() < 2:
        return _LLAMA3
    share = (1 / divisors[between] - 1 / factor) / (1 - 1 / factor)
    slope, start = np.polyfit(1 / wavelengths[between], share, 1)
    return round(float(slope / -start)), round(1 - 1 / float(start), 3)


def _unknown(model: GgufModel, kind: str) -> UserError:
    return UserError(
        f"{model.path} has rotary positions that Lathe does not read ({kind})",
        "Compress the model's Hugging Face checkpoint.",
    )
