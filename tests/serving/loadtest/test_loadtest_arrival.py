from itertools import islice, pairwise

import pytest

from lathe.artefact.errors import UserError
from lathe.serving.loadtest.load import Arrival, Load, arrival_times


def test_constant_arrivals_are_evenly_spaced() -> None:
    assert list(islice(arrival_times(4, "constant", 0), 5)) == [0, 0.25, 0.5, 0.75, 1.0]


def test_poisson_arrivals_repeat_with_the_seed_and_have_the_rate() -> None:
    times = list(islice(arrival_times(10, "poisson", 7), 20_001))
    gaps = [b - a for a, b in pairwise(times)]
    assert times[:50] == list(islice(arrival_times(10, "poisson", 7), 50))
    assert times[:50] != list(islice(arrival_times(10, "poisson", 8), 50))
    assert times[0] == 0
    assert min(gaps) >= 0
    mean = sum(gaps) / len(gaps)
    assert mean == pytest.approx(0.1, rel=0.03)
    spread = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert spread == pytest.approx(mean, rel=0.05)


@pytest.mark.parametrize("arrival", ["constant", "poisson"])
@pytest.mark.parametrize(("start", "end"), [(10, 90), (90, 10)])
def test_a_ramp_changes_the_rate_evenly(arrival: Arrival, start: float, end: float) -> None:
    times = list(islice(arrival_times(start, arrival, 3, end, 100.0), 6_000))
    for quarter in range(4):
        begin, over = 25.0 * quarter, 25.0 * (quarter + 1)
        expected = 25 * (start + (end - start) * (quarter + 0.5) / 4)
        tolerance = 1 if arrival == "constant" else 4 * expected**0.5
        assert sum(begin <= time < over for time in times) == pytest.approx(expected, abs=tolerance)


def test_a_rate_that_falls_to_nothing_ends() -> None:
    assert len(list(arrival_times(10, "constant", 0, 1e-9, 4.0))) == 20 + 1


def test_users_of_a_ramp_join_so_that_every_number_lasts_equally_long() -> None:
    assert Load(concurrency=2, ramp_to=4, duration_s=30).join_times() == [0, 0, 10, 20]
    assert Load(concurrency=3, requests=1).join_times() == [0, 0, 0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"rate": 1.0, "ramp_to": 2.0, "requests": 3},
        {"rate": 1.0, "ramp_to": 0.0, "duration_s": 3.0},
        {"concurrency": 2, "ramp_to": 2.0, "duration_s": 3.0},
        {"concurrency": 2, "ramp_to": 3.5, "duration_s": 3.0},
    ],
)
def test_a_ramp_that_is_none(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match="--ramp-to"):
        Load(**wrong)
