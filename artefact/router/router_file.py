"""The router on disk: its tensors in a file beside `family.json`, which lists and describes it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from lathe.artefact.errors import UserError
from lathe.artefact.family import FAMILY, Family
from lathe.artefact.manifest import entry, read_json
from lathe.artefact.router.router import Router

FILE = "router.safetensors"
FACT = "router"
"""What `family.json` calls its description."""
_AGAIN = "Copy the whole directory, or compress again."


def write_router(directory: Path, router: Router) -> dict[str, Any]:
    """Writes the tensors of a router; returns its description for `family.json`.

    Raises:
        UserError: the file cannot be written.
    """
    file = directory / FILE
    try:
        save_file({"scores": router.scores, "bias": router.bias}, file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot write {file}: {error}", "Free some space and run again.") from None
    return {
        "file": FILE,
        **entry(file),
        "plans": list(router.plans),
        "fallback": router.fallback,
        "thresholds": list(router.thresholds),
        "tokens": router.tokens,
        "prior": router.prior,
    }


def has_router(family: Family) -> bool:
    """Returns whether a family states that it has a router.

    Raises:
        UserError: `family.json` cannot be read.
    """
    return read_json(family.path / FAMILY).get(FACT) is not None


def read_router(family: Family) -> Router | None:
    """Reads the router of a family; None where it has none.

    Raises:
        UserError: it is missing or damaged, or its description names no subnet of the family.
    """
    listed = read_json(family.path / FAMILY).get(FACT)
    if listed is None:
        return None
    if not _is_description(listed):
        raise UserError(f"{family.path / FAMILY} does not describe its router", _AGAIN)
    names = {plan.name for plan in family.plans}
    if unknown := [name for name in (*listed["plans"], listed["fallback"]) if name not in names]:
        raise UserError(
            f"the router of {family.path} goes to {unknown[0]!r}, which is none of its subnets", _AGAIN
        )
    scores, bias = _tensors(family.path / FILE, listed)
    return Router(
        scores,
        bias,
        tuple(listed["plans"]),
        listed["fallback"],
        tuple(listed["thresholds"]),
        listed["tokens"],
        listed["prior"],
    )


def _tensors(file: Path, listed: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the scores and the bias.

    Raises:
        UserError: the file is missing or not the one that is listed.
    """
    if not file.is_file():
        raise UserError(f"{file} is missing", _AGAIN)
    if entry(file) != {"sha256": listed["sha256"], "bytes": listed["bytes"]}:
        raise UserError(f"{file} is damaged: it is not the file that {FAMILY} lists", _AGAIN)
    try:
        tensors = load_file(file)
        scores, bias = tensors["scores"], tensors["bias"]
    except (SafetensorError, KeyError) as error:
        raise UserError(f"{file} is not a router: {error}", _AGAIN) from None
    if scores.ndim != 2 or bias.shape != scores.shape[1:] or len(bias) != len(listed["plans"]):
        raise UserError(f"{file} is not a router of {len(listed['plans'])} domains", _AGAIN)
    return scores, bias


def _is_description(listed: Any) -> bool:
    if not isinstance(listed, dict):
        return False
    plans, thresholds = listed.get("plans"), listed.get("thresholds")
    texts = [listed.get(name) for name in ("fallback", "sha256")]
    counts = [listed.get(name) for name in ("tokens", "bytes")]
    return (
        isinstance(plans, list)
        and isinstance(thresholds, list)
        and len(plans) == len(thresholds) > 1
        and all(isinstance(text, str) for text in (*plans, *texts))
        and all(type(count) is int and count > 0 for count in counts)
        and all(
            type(n) in (int, float) and math.isfinite(n) and n >= 0
            for n in (*thresholds, listed.get("prior"))
        )
    )
