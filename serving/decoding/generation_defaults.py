"""The sampling that a model recommends in its generation_config.json, for fields that requests leave out."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from lathe.artefact.errors import UserError
from lathe.artefact.manifest import read_json

FILE = "generation_config.json"
RANGES: dict[str, tuple[str, Callable[[float], bool]]] = {
    "temperature": ("a number from 0 on", lambda value: value >= 0),
    "top_p": ("a number above 0, up to 1", lambda value: 0 < value <= 1),
    "top_k": ("an integer from -1 on", lambda value: value >= -1 and value == int(value)),
    "min_p": ("a number from 0 to 1", lambda value: 0 <= value <= 1),
    "presence_penalty": ("a number from -2 to 2", lambda value: -2 <= value <= 2),
    "frequency_penalty": ("a number from -2 to 2", lambda value: -2 <= value <= 2),
    "repetition_penalty": ("a number from 0.01 to 100", lambda value: 0.01 <= value <= 100),
    "max_new_tokens": ("a positive integer", lambda value: value >= 1 and value == int(value)),
}
"""The allowed values of each setting, in words and as a test."""
IDLE: dict[str, Any] = {
    "num_beams": 1,
    "num_beam_groups": 1,
    "diversity_penalty": 0,
    "length_penalty": 1,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1,
    "typical_p": 1,
    "top_h": None,
    "epsilon_cutoff": 0,
    "eta_cutoff": 0,
    "penalty_alpha": None,
    "guidance_scale": None,
    "bad_words_ids": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "sequence_bias": None,
    "stop_strings": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "min_length": 0,
    "min_new_tokens": None,
}
"""Settings that would change answers and are not applied, with the values that change nothing."""

log = logging.getLogger("lathe.serving")


def sampling_defaults(model: Path, source: Literal["auto", "none"]) -> dict[str, float]:
    """Returns the default sampling: with `auto` the model's recommendation, with `none` OpenAI's values.

    Raises:
        UserError: a recommended value is out of its range.
    """
    return recommended(model) if source == "auto" else {}


def recommended(model: Path) -> dict[str, float]:
    """Returns the model's recommendation, by the names of request fields, but for `max_new_tokens`.

    Raises:
        UserError: a value is out of its range.
    """
    file = read_json(model / FILE, optional=True)
    found = {name: file[name] for name in RANGES if file.get(name) is not None}
    for name, value in found.items():
        words, right = RANGES[name]
        if not _is_number(value) or not right(value):
            raise UserError(
                f"{model / FILE}: {name} is {str(value)[:40]!r}, not {words}",
                "Mend it, or serve with --generation-config none.",
            )
    if file.get("do_sample") is False:
        found["temperature"] = 0
    _tell(found, [name for name, idle in IDLE.items() if file.get(name) not in (None, [], idle)])
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _tell(found: Mapping[str, float], idle: list[str]) -> None:
    if found:
        values = ", ".join(f"{name} {value:g}" for name, value in found.items())
        log.warning(
            "%s recommends %s: used where a request leaves them out, but not with --generation-config none",
            FILE,
            values,
        )
    if idle:
        log.warning("%s also sets %s, which this engine does not apply", FILE, ", ".join(idle))
