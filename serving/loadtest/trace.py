"""Recorded traffic: the arrival times of requests, and the lengths of prompts and answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lathe.artefact.errors import UserError
from lathe.artefact.texts.rows import Row, format_of, from_json_lines

FORMATS: tuple[tuple[tuple[str, str, str], float], ...] = (
    (("at_s", "prompt_tokens", "output_tokens"), 1.0),
    (("timestamp", "input_length", "output_length"), 1e-3),
)
"""The fields of a line, and seconds per unit of its time: ours, and that of the Mooncake traces."""


@dataclass(frozen=True)
class RecordedRequest:
    """One request of a trace: seconds after the first, and its tokens."""

    at_s: float
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class Trace:
    """Recorded requests in the order of their arrival, the first at 0 s."""

    path: Path
    requests: tuple[RecordedRequest, ...]

    def as_json(self) -> dict[str, Any]:
        return {
            "file": str(self.path),
            "requests": len(self.requests),
            "seconds": round(self.requests[-1].at_s, 3),
        }


def read_trace(path: Path) -> Trace:
    """Reads a trace from a file of JSON lines (or JSON, Parquet).

    A row is `{"at_s": 1.5, "prompt_tokens": 128, "output_tokens": 64}`. Mooncake's fields are read, too:
    `timestamp` (milliseconds), `input_length`, `output_length`. Other fields are ignored.

    Raises:
        UserError: the file cannot be read, is empty, or a line is not such an object.
    """
    if not path.is_file():
        raise UserError(f"The trace {path} cannot be read: there is no such file")
    try:
        rows = list((format_of(path) or from_json_lines)(path))
    except UserError as error:
        raise UserError(str(error), _remedy()) from None
    found = sorted(map(_recorded, rows), key=lambda r: r.at_s)
    if not found:
        raise UserError(f"The trace {path} holds no request", _remedy())
    first = found[0].at_s
    return Trace(
        path, tuple(RecordedRequest(r.at_s - first, r.prompt_tokens, r.output_tokens) for r in found)
    )


def _recorded(row: Row) -> RecordedRequest:
    value = row.value
    if isinstance(value, Mapping):
        for names, second in FORMATS:
            if value.keys() >= set(names):
                return _checked([value[name] for name in names], second, row.place)
    raise UserError(f"{row.place} is no recorded request", _remedy())


def _checked(values: list[Any], second: float, place: str) -> RecordedRequest:
    at, prompt, output = values
    numeric = isinstance(at, int | float) and not isinstance(at, bool) and 0 <= at < float("inf")
    if not numeric or any(type(tokens) is not int or tokens < 1 for tokens in (prompt, output)):
        raise UserError(f"{place} has a time below 0 or lengths below 1, or no numbers", _remedy())
    return RecordedRequest(at * second, prompt, output)


def _remedy() -> str:
    return f"A line is {json.dumps(dict(zip(FORMATS[0][0], (1.5, 128, 64), strict=True)))}."
