import pytest
from hypothesis import given
from hypothesis import strategies as st

from lathe.artefact.errors import UserError
from lathe.serving.loadtest.bisection import RESOLUTION, Bisection
from lathe.serving.loadtest.sample import Sample
from lathe.serving.loadtest.slo import Slo, parse_slo, wilson


def answer(ttft_s: float, gap_s: float) -> Sample:
    return Sample(0.0, chunk_s=[ttft_s, ttft_s + gap_s, ttft_s + 2 * gap_s], output_tokens=3)


def test_limits_are_read_with_their_units() -> None:
    assert parse_slo("tpot=30ms, ttft = 0.2s") == Slo({"tpot": 0.03, "ttft": 0.2}, 0.95)
    assert parse_slo("e2e=2s", "0.9").as_json() == {"e2e_ms": 2000.0, "share": 0.9}


@pytest.mark.parametrize(
    "text", ["", "tpot", "tpot=30", "itl=3ms", "tpot=0ms", "tpot=1.2.3ms", "tpot=1ms,tpot=2ms"]
)
def test_what_is_no_slo_is_the_users_error(text: str) -> None:
    with pytest.raises(UserError, match="'tpot=30ms,ttft=0.2s'"):
        parse_slo(text)


@pytest.mark.parametrize("share", ["0%", "101%", "-0.1", "most", "nan"])
def test_a_share_is_one(share: str) -> None:
    with pytest.raises(UserError, match="--slo-share"):
        parse_slo("tpot=1ms", share)


def test_a_request_has_to_keep_every_limit_and_to_succeed() -> None:
    good, slow, late = answer(0.1, 0.02), answer(0.1, 0.04), answer(0.3, 0.02)
    one_token = Sample(0.0, chunk_s=[0.1], output_tokens=1)
    failed = Sample(0.0, error_kind="http_429")
    found = parse_slo("tpot=30ms,ttft=200ms", "40%").evaluate([good, slow, late, one_token, failed])
    assert (found.evaluated, found.met, found.met_each) == (5, 2, {"tpot": 3, "ttft": 3})
    assert found.passed
    assert not found.certain


# From Newcombe, Statistics in Medicine 17 (1998), table I: intervals without continuity correction.
@pytest.mark.parametrize(
    ("met", "evaluated", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilsons_interval_is_the_published_one(met: int, evaluated: int, low: float, high: float) -> None:
    assert wilson(met, evaluated) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))
    assert wilson(0, 0) == (0.0, 1.0)


@given(start=st.integers(1, 40), capacity=st.integers(0, 1_000))
def test_the_most_users_are_found(start: int, capacity: int) -> None:
    found, tries = Bisection(start, whole=True), 0
    while (level := found.next) is not None:
        found.note(level, level <= capacity)
        tries += 1
    assert tries <= 25
    if capacity < 20:
        assert found.best == capacity
    assert found.best <= capacity <= found.best + max(1.0, RESOLUTION * found.best)


@given(start=st.floats(1, 10), capacity=st.floats(0.05, 1_000))
def test_the_highest_rate_is_found_within_five_percent(start: float, capacity: float) -> None:
    found = Bisection(start, whole=False)
    while (level := found.next) is not None:
        found.note(level, level <= capacity)
    assert found.best <= capacity <= found.best / (1 - RESOLUTION) * 1.0001


@pytest.mark.parametrize("whole", [True, False])
def test_a_search_without_an_end_is_given_up(whole: bool) -> None:
    for passes in (True, False):
        found, tries = Bisection(2.0, whole), 0
        while (level := found.next) is not None:
            found.note(level, passes)
            tries += 1
        assert tries <= 12
        assert (found.best == 2048) if passes else (found.best == 0)


def test_a_level_that_failed_in_a_bad_moment_does_not_end_the_search() -> None:
    found, tried = Bisection(1, whole=True), []
    while (level := found.next) is not None:
        bad_moment = tried == [1]
        found.note(level, level <= 5 and not bad_moment)
        tried.append(level)
    assert tried == [1, 2, 2, 4, 8, 6, 5, 6]
    assert (found.best, found.failing) == (5, 6)
