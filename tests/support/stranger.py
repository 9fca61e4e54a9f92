"""Checkpoints as somebody without Lathe uses them.

Runs alone, with transformers only:

    python tests/support/stranger.py DIRECTORY [DIRECTORY ...]

Each directory holds a checkpoint and `expected.safetensors`: `ids` [B, T] and `logits` [B, T, V] of a model
that does not depend on the checkpoint's own code. Prints a JSON document for each, a line: by name of the
check the largest difference of logits, or whether tokens are the same ones, or the error's text.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, DynamicCache

NAMES = ("past_key_values", "cache")
NEW_TOKENS = 12
GREEDY: dict[str, Any] = {
    "do_sample": False,
    "max_new_tokens": NEW_TOKENS,
    "eos_token_id": None,
    "pad_token_id": 0,
}


def forward(model: Any, ids: torch.Tensor, expected: torch.Tensor) -> float:
    return float((model(ids).logits - expected).abs().max())


def chunked(name: str) -> Callable[..., float]:
    """In three pieces over one cache, which is given by this name."""

    def check(model: Any, ids: torch.Tensor, expected: torch.Tensor) -> float:
        cache, found = DynamicCache(config=model.config), []
        for part in ids.split([7, 5, ids.shape[1] - 12], dim=1):
            found.append(model(part, **{name: cache}, use_cache=True).logits)
        return float((torch.cat(found, 1) - expected).abs().max())

    return check


def own_cache(model: Any, ids: torch.Tensor, expected: torch.Tensor) -> float:
    """In two pieces over the cache that the first call gives back, read from the output by position."""
    first = model(ids[:, :9], use_cache=True, return_dict=False)
    second = model(ids[:, 9:], past_key_values=first[1], use_cache=True)
    return float((torch.cat([first[0], second.logits], 1) - expected).abs().max())


def written(model: Any, ids: torch.Tensor, **options: Any) -> torch.Tensor:
    tokens: torch.Tensor = model.generate(ids, **GREEDY | options)
    return tokens[:, -NEW_TOKENS:]


def greedy(model: Any, ids: torch.Tensor, _: torch.Tensor) -> bool:
    ones = torch.ones_like(ids)
    cached = written(model, ids, attention_mask=ones)
    return bool((cached == written(model, ids, attention_mask=ones, use_cache=False)).all())


def ragged(model: Any, ids: torch.Tensor, _: torch.Tensor) -> bool:
    """Prompts of different lengths, padded on the left, against each alone."""
    lengths = torch.tensor([ids.shape[1], 9, 4][: len(ids)])
    mask = (torch.arange(ids.shape[1]) >= (ids.shape[1] - lengths)[:, None]).long()
    together = written(model, ids * mask, attention_mask=mask)
    alone = [
        written(model, row[None, -n:], attention_mask=torch.ones(1, n, dtype=torch.long), use_cache=False)
        for row, n in zip(ids, lengths.tolist(), strict=True)
    ]
    return bool((together == torch.cat(alone)).all())


def beams(model: Any, ids: torch.Tensor, _: torch.Tensor) -> bool:
    options = {"num_beams": 3, "attention_mask": torch.ones_like(ids)}
    return bool((written(model, ids, **options) == written(model, ids, use_cache=False, **options)).all())


def assisted(model: Any, ids: torch.Tensor, _: torch.Tensor) -> bool:
    """The model drafts for itself; what it drafts is always right."""
    row = ids[:1]
    options = {"attention_mask": torch.ones_like(row)}
    drafted = written(model, row, assistant_model=model, **options)
    return bool((drafted == written(model, row, use_cache=False, **options)).all())


def static(model: Any, ids: torch.Tensor, _: torch.Tensor) -> bool:
    options = {"attention_mask": torch.ones_like(ids)}
    cached = written(model, ids, cache_implementation="static", disable_compile=True, **options)
    return bool((cached == written(model, ids, use_cache=False, **options)).all())


def refuses_unknown(model: Any, ids: torch.Tensor, _: torch.Tensor) -> bool:
    """An argument of tomorrow's name is an error, not another answer."""
    try:
        model(ids, cache_of_tomorrow=DynamicCache())
    except TypeError as error:
        return "cache_of_tomorrow" in str(error)
    return False


CHECKS: dict[str, Callable[..., float | bool]] = {
    "forward": forward,
    **{f"chunked, {name}": chunked(name) for name in NAMES},
    "its own cache": own_cache,
    "greedy": greedy,
    "ragged batch": ragged,
    "beams": beams,
    "assisted": assisted,
    "static cache": static,
    "unknown argument": refuses_unknown,
}


@torch.inference_mode()
def checked(directory: Path) -> dict[str, Any]:
    try:
        model = AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True, dtype=torch.float32)
    except Exception as error:
        return {"load": f"{type(error).__name__}: {error}"}
    expected = load_file(directory / "expected.safetensors")
    found: dict[str, Any] = {}
    for name, check in CHECKS.items():
        try:
            found[name] = check(model.eval(), expected["ids"], expected["logits"])
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


def main() -> None:
    sys.modules["lathe"] = None  # type: ignore[assignment]
    torch.set_num_threads(1)
    for name in sys.argv[1:]:
        sys.stdout.write(json.dumps({"directory": name, "checks": checked(Path(name))}) + "\n")


if __name__ == "__main__":
    main()
