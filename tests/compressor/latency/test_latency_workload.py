"""What users write for times, factors, shares and sizes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lathe.artefact.byte_size import parse_bytes
from lathe.artefact.errors import UserError
from lathe.compressor.latency.workload import (
    Workload,
    parse_factor,
    parse_milliseconds,
    parse_share,
)

PARSERS = MS, FACTOR, SHARE, BYTES = parse_milliseconds, parse_factor, parse_share, parse_bytes


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (MS, "30ms", 30),
        (MS, "0.5s", 500),
        (MS, "250us", 0.25),
        (MS, "250µs", 0.25),
        (MS, " 7 MS ", 7),
        (MS, ".5ms", 0.5),
        (FACTOR, "1.5x", 1.5),
        (FACTOR, "2", 2),
        (FACTOR, "1X", 1),
        (SHARE, "80%", 0.8),
        (SHARE, "0.8", 0.8),
        (SHARE, "100%", 1),
        (SHARE, "1", 1),
        (BYTES, "6GiB", 6 * 2**30),
        (BYTES, "500MB", 500 * 10**6),
        (BYTES, "1.5 kib", 1536),
        (BYTES, "100b", 100),
    ],
)
def test_good_values(parse: Callable[[str], float], text: str, value: float) -> None:
    assert parse(text) == pytest.approx(value)


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (MS, "banana", "`banana` is not a time"),
        (MS, "30", "the unit is missing"),
        (MS, "-1ms", "not a time"),
        (MS, "0ms", "not a positive time"),
        (MS, "3min", "unit `min` is unknown"),
        (MS, "", "not a time"),
        (MS, "1e3ms", "not a time"),
        (MS, "nanms", "not a time"),
        (FACTOR, "0.9x", "not a speed-up"),
        (FACTOR, "fast", "not a speed-up"),
        (SHARE, "0%", "not a share"),
        (SHARE, "101%", "not a share"),
        (SHARE, "80", "not a share"),
        (BYTES, "6", "not a memory size"),
        (BYTES, "0GB", "not a memory size"),
        (BYTES, "-1GB", "not a memory size"),
        (BYTES, "6 elephants", "not a memory size"),
    ],
)
def test_bad_values_are_quoted(parse: Callable[[str], float], text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(text)


@given(st.sampled_from(PARSERS), st.text() | st.from_regex(r"[0-9.]{1,400} ?[a-zA-Z%µ]{0,4}", fullmatch=True))
def test_any_text_is_a_number_or_a_sentence(parse: Callable[[str], float], text: str) -> None:
    with contextlib.suppress(UserError):
        assert parse(text) > 0


@pytest.mark.parametrize("facts", [("speed", 1, 1, 1), ("tpot", 0, 1, 1), ("e2e", 1, 1, 0)])
def test_impossible_workloads_are_refused(facts: tuple[str, int, int, int]) -> None:
    with pytest.raises(UserError):
        Workload(*facts)
