"""Was the right model measured? What a system says, against transformers in float32."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lathe.artefact.modeling import register
from lathe.artefact.modeling.cache import new_cache
from lathe.artefact.modeling.load import load_model

_SAME_MODEL = 0.1
"""Relative error where weights are not rounded; unrelated models are 1.4 apart. Rounded random weights go far
astray, 4-bit ones by up to 1.0, which says little about trained ones."""


@dataclass(frozen=True)
class Reference:
    """What transformers computes.

    logprobs: log-probabilities after prompts [B, V]. tokens: greedy ones [B, T]. leads: by how many nats each
    of them was ahead of the second [B, T].
    """

    logprobs: torch.Tensor
    tokens: np.ndarray
    leads: np.ndarray


def reference(model: Path, prompts: np.ndarray, steps: int) -> Reference:
    """By transformers in float32, `steps` tokens after the first."""
    register()
    network = load_model(model)
    past = new_cache()
    tokens, found, leads = torch.from_numpy(prompts), [], []
    with torch.inference_mode():
        for _ in range(1 + steps):
            result = network(tokens, use_cache=True, logits_to_keep=1, **past)
            found.append(result.logits[:, -1].log_softmax(-1))
            best = found[-1].topk(2)
            leads.append(best.values[:, 0] - best.values[:, 1])
            tokens = best.indices[:, :1]
    greedy = torch.stack([row.argmax(-1) for row in found], dim=1)
    return Reference(found[0], greedy.numpy(), torch.stack(leads, dim=1).numpy())


def agreement(
    logits: np.ndarray | None, tokens: np.ndarray, wanted: Reference, rounded: bool
) -> dict[str, Any]:
    """How near a system's answers are to the reference.

    After the prompts, where there are logits: KL(reference || system) in nats, and the spread of the
    differences of log-probabilities over the spread of these. Then how many greedy tokens are the
    reference's, up to the first that is not, and by how much the reference preferred its own there (much:
    rounding is not why). same_model: the verdict, on weights that are not quantized.
    """
    same = np.cumprod(tokens == wanted.tokens, axis=1).sum(axis=1)
    missed = [float(wanted.leads[row, at]) for row, at in enumerate(same) if at < wanted.tokens.shape[1]]
    return {
        **({} if logits is None else _distances(logits, wanted, rounded)),
        "greedy_tokens_equal": int(same.sum()),
        "greedy_tokens": wanted.tokens.size,
        "largest_lead_missed_nats": max(missed, default=0.0),
    }


def _distances(logits: np.ndarray, wanted: Reference, rounded: bool) -> dict[str, Any]:
    found = torch.from_numpy(logits).float().log_softmax(-1)
    kl = (wanted.logprobs.exp() * (wanted.logprobs - found)).sum(-1).mean().item()
    relative = ((found - wanted.logprobs).std() / wanted.logprobs.std(-1).mean()).item()
    same = {} if rounded else {"same_model": relative < _SAME_MODEL}
    return {"kl_nats": kl, "relative_error": relative, **same}
