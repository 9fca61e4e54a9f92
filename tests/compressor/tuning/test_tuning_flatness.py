"""What is said of a study: the spread of the best, what each knob matters, and the noise."""

from __future__ import annotations

import random

import pytest

from lathe.compressor.tuning.flatness import complete, gain_over_default, importances, spread_of_best
from lathe.compressor.tuning.knobs import DAMPINGS
from lathe.compressor.tuning.plot import plot
from lathe.compressor.tuning.space import TuningSpace
from lathe.compressor.tuning.study import Record


def trial(number: int, loss: float | None, state: str = "complete", **facts: object) -> Record:
    return Record(number, (number,), state, loss, dict(facts))


def test_the_spread_is_that_of_the_best_tenth() -> None:
    found = [trial(n, 1.0 + 0.01 * n) for n in range(30)]
    found += [trial(30, None, "dropped", first=0.5), trial(31, 0.1, same_as=3)]
    spread = spread_of_best(found)
    assert spread["trials"] == 3
    assert spread["nats"] == pytest.approx(0.02)
    assert spread["share"] == pytest.approx(0.02)
    assert complete(found)[0].number == 0


def test_a_gain_counts_only_above_what_seeds_change() -> None:
    real = gain_over_default(1.0, 0.8, [(1.01, 0.81), (0.99, 0.80)])
    assert real["confirmed"] == pytest.approx(0.195)
    assert real["noise"] == pytest.approx(0.02)
    assert not real["within_noise"]
    assert gain_over_default(1.0, 0.8, [(1.01, 1.0), (0.99, 1.0)])["within_noise"]
    assert gain_over_default(1.0, 1.0, [])["within_noise"]


def test_a_knob_that_decides_counts_more_than_one_that_does_not() -> None:
    space = TuningSpace({"damping": tuple(DAMPINGS), "ffn-levels": (2, 4, 8, 16, 32)}, {})
    draw = random.Random(1)
    found = []
    for number in range(40):
        much, little = draw.randrange(len(DAMPINGS)), draw.randrange(5)
        found.append(Record(number, (much, little), "complete", much + 0.01 * little, {}))
    shares = importances(space, found)
    assert shares is not None
    assert shares["damping"] > 0.99
    assert shares["ffn-levels"] < 0.15
    assert importances(space, found[:5]) is None


def test_the_plot_has_every_trial_and_the_best_so_far() -> None:
    found = [trial(0, 1.0), trial(1, 1.2), trial(2, None, "dropped", first=1.5), trial(3, 0.9)]
    found.append(trial(4, None, "failed", error="no"))
    picture = plot("a study", found)
    assert picture.count("<circle") == 4
    assert "trial 2: 1.5, on fewer tokens, dropped" in picture
    assert "the best loses 0.9" in picture
