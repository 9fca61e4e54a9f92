from itertools import islice, pairwise

import pytest

from serving.loadtest.arrival import arrival_times


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
