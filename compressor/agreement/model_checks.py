"""Checks that transformers accepts a checkpoint: config, model class, tokenizer, special tokens."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from lathe.artefact.errors import UserError
from lathe.artefact.library_errors import reason
from lathe.artefact.manifest import read_json
from lathe.artefact.tokenizer import beyond, beyond_warning, open_tokenizer, own_code
from lathe.artefact.transformers_config import reference_config
from lathe.compressor.model.checkpoint import Checkpoint

_GENERATION = "generation_config.json"
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?(e[+-]?\d+)?", re.IGNORECASE)
_NEVER = 100
"""A level of logging above all messages."""
_SPECIAL = {
    "bos_token_id": None,
    "eos_token_id": "no text ends with it",
    "pad_token_id": "it is passed over, as transformers does",
}
"""Special tokens, and what comes of one that a model does not have; None where texts would begin with it."""


def check_model(source: Checkpoint) -> Iterator[str]:
    """Returns what a user should know of a checkpoint that can be compressed.

    Raises:
        UserError: transformers refuses a part of it, or it begins texts with a token that it does not have.
    """
    yield from check_config(source)
    yield from _own_code(source)
    with _quiet():
        missing = beyond(open_tokenizer(source.path), source.shape.vocab_size)
    if missing:
        yield beyond_warning(missing, source.shape.vocab_size)


def _own_code(source: Checkpoint) -> Iterator[str]:
    """Code that came with a checkpoint, which transformers runs only where that is allowed."""
    named = source.config.get("auto_map")
    own = {
        "model": named.get("AutoModelForCausalLM") if isinstance(named, Mapping) else None,
        "tokenizer": own_code(source.path),
    }
    for what, code in own.items():
        if code:
            yield (
                f"{source.path} names code of its own for the {what} (`{code}`), which Lathe does not run: "
                "it is read as transformers reads it without. If the code computes something else, the "
                "result is of another model"
            )


def check_config(source: Checkpoint) -> Iterator[str]:
    """Does what `check_model` does for config.json and generation_config.json."""
    with _quiet():
        _check_builds(source)
    _check_positions(source)
    yield from _special(source.config, source.path / "config.json", source.shape.vocab_size)
    generation = source.path / _GENERATION
    yield from _special(read_json(generation, optional=True), generation, source.shape.vocab_size)


def _check_builds(source: Checkpoint) -> None:
    """Checks the config and the model without its weights for what is only found when layers are made."""
    from transformers import AutoModelForCausalLM

    config = reference_config(source.path)
    try:
        with torch.device("meta"):
            AutoModelForCausalLM.from_config(config)
    except Exception as error:
        raise UserError(
            f"transformers cannot make a model of the config.json of {source.path}: "
            f"{_known(source.config, error) or reason(error)}",
            "Mend it there.",
        ) from None


def _known(settings: Mapping[str, Any], error: Exception) -> str | None:
    """The setting that lies behind a message which names none."""
    pad, vocab = settings.get("pad_token_id"), settings.get("vocab_size")
    if type(pad) is type(vocab) is int and not -vocab <= pad < vocab:
        return f"pad_token_id {pad} is outside the vocabulary of {vocab:,}"
    if isinstance(error, TypeError) and (texts := _numbers_as_text(settings)):
        return f"{' and '.join(texts)} must be a number, not text"
    numbers = {n: v for n, v in settings.items() if type(v) is int and n not in _SPECIAL}
    if isinstance(error, KeyError):
        named = [f"`{name}`" for name, value in settings.items() if value == error.args[0]]
        return f"{error.args[0]!r} is no {' or '.join(named)} that it knows" if named else None
    if isinstance(error, ZeroDivisionError):
        zeros = [f"`{name}`" for name, value in numbers.items() if value == 0]
        return f"{' or '.join(zeros)} is 0" if zeros else None
    return next((f"`{name}` is {value}" for name, value in numbers.items() if value < 0), None)


def _numbers_as_text(settings: Mapping[str, Any], within: str = "") -> list[str]:
    """Settings that are numbers in quotation marks, as `name "1"`; also those of rotary positions."""
    found = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found += _numbers_as_text(value, f"{within}{name}.")
        elif isinstance(value, str) and _NUMBER.fullmatch(value):
            found.append(f'{within}{name} "{value}"')
    return found


def _check_positions(source: Checkpoint) -> None:
    positions = source.config.get("max_position_embeddings")
    if positions is not None and positions < 2:
        raise UserError(
            f"config.json of {source.path} allows {positions} positions (max_position_embeddings)",
            "Mend it there.",
        )


def _special(config: Mapping[str, Any], file: Path, vocab: int) -> Iterator[str]:
    for name, outcome in _SPECIAL.items():
        value = config.get(name)
        for token in value if isinstance(value, list) else [value]:
            if token is None or (type(token) is int and 0 <= token < vocab):
                continue
            wrong = f"{name} {json.dumps(token)} of {file} is no token of the model, which has {vocab:,}"
            if outcome is None or type(token) is not int:
                raise UserError(wrong, "Set it to the tokenizer's, or to null.")
            yield f"{wrong}: {outcome}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Transformers' own remarks say no more than our messages do."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity(_NEVER)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(before)
