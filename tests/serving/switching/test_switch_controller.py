"""The controller under made-up load and time: when it moves, and above all when it does not."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise

import pytest

from lathe.serving.switching.controller import (
    CALM_S,
    LEAST_GAPS,
    REGRET_S,
    ROOM,
    SETTLE_S,
    SOON,
    Load,
    SwitchController,
)
from lathe.serving.switching.history import SwitchHistory
from lathe.serving.switching.window import SlidingWindow

MS = (12.0, 8.0, 6.0)
LIMITS = {"tpot": 0.030, "ttft": 0.200}
STEP_S = 0.1
IDLE = Load()


class Plant:
    """Engines whose time per token is the load times the milliseconds of the level; time is made up."""

    def __init__(self, limits: dict[str, float] = LIMITS) -> None:
        self.now = 0.0
        self.controller = SwitchController(MS, limits, lambda: self.now)
        self.moves: list[tuple[float, int]] = []

    def run(self, seconds: float, demand: Callable[[float], float], load: Load = IDLE) -> None:
        """For some seconds; `demand` is the pressure at the widest level, by the time."""
        end = self.now + seconds
        while self.now < end:
            level = self.controller.level
            self.controller.token(LIMITS["tpot"] * demand(self.now) * MS[level] / MS[0])
            if self.controller.update(load) != level:
                self.moves.append((self.now, self.controller.level))
            self.now += STEP_S

    def most_a_minute(self) -> int:
        times = [at for at, _ in self.moves]
        return max((sum(0 <= other - at < 60 for other in times) for at in times), default=0)


def test_it_stays_at_the_widest_while_limits_are_far() -> None:
    plant = Plant()
    plant.run(120, lambda _: SOON - 0.05)
    assert plant.moves == []


def test_a_step_in_load_moves_requests_at_once_and_back_after_it() -> None:
    plant = Plant()
    plant.run(20, lambda _: 0.4)
    plant.run(30, lambda _: 1.0)
    assert [level for _, level in plant.moves] == [1]
    assert plant.moves[0][0] < 20 + 2.5  # as soon as the window is full of it
    plant.run(60, lambda _: 0.4)
    back, level = plant.moves[-1]
    assert level == 0
    assert back >= 50 + CALM_S


def test_a_limit_that_is_far_exceeded_skips_a_level() -> None:
    plant = Plant()
    plant.run(10, lambda _: 1.5)
    assert [level for _, level in plant.moves] == [2]
    plant.run(100, lambda _: 0.2)
    assert [level for _, level in plant.moves] == [2, 1, 0]
    (_, _), (first, _), (second, _) = plant.moves
    assert second - first >= CALM_S


def test_more_than_the_fastest_can_bear_leaves_it_there() -> None:
    plant = Plant()
    plant.run(300, lambda _: 5.0)
    assert [level for _, level in plant.moves] == [2]


@pytest.mark.parametrize("demand", [0.78, 0.8, 0.82, 0.9, 1.0])
def test_constant_load_at_the_edge_does_not_flap(demand: float) -> None:
    """What the faster level bears has no room on the wider one, as long as times scale with the level."""
    plant = Plant()
    plant.run(1200, lambda _: demand)
    assert len(plant.moves) <= 1


def test_a_wider_level_that_is_worse_than_foreseen_is_tried_ever_more_rarely() -> None:
    """A queue that builds up at the widest level alone, and makes no pressure on the others."""
    plant = Plant()
    plant.run(1800, lambda _: 1.2 if plant.controller.level == 0 else 0.5)
    back = [at for at, level in plant.moves if level == 0]
    gaps = [after - before for before, after in pairwise(back)]
    assert len(gaps) >= 4
    assert all(later > 1.2 * earlier for earlier, later in pairwise(gaps[:5]))
    assert len(plant.moves) <= 20
    assert plant.most_a_minute() <= 6


@pytest.mark.parametrize("seed", range(5))
def test_switches_a_minute_are_bounded_whatever_comes(seed: int) -> None:
    draw = random.Random(seed)
    plant = Plant()
    while plant.now < 1200:
        demand = draw.choice([0.1, 0.5, 0.8, 1.0, 2.0])
        plant.run(draw.choice([1, 3, 11, 30]), lambda _, demand=demand: demand)
    assert len(plant.moves) > 4
    assert plant.most_a_minute() <= 10
    assert plant.controller.switches == len(plant.moves)
    assert all(b - a >= SETTLE_S - 1e-9 for (a, _), (b, _) in pairwise(plant.moves))


def test_patience_returns_when_a_return_was_not_regretted() -> None:
    plant = Plant()
    worse = lambda _: 1.2 if plant.controller.level == 0 else 0.5  # noqa: E731
    plant.run(200, worse)
    plant.run(REGRET_S + 120, lambda _: 0.3)
    assert plant.controller.level == 0
    plant.run(5, lambda _: 1.0)
    began = plant.now
    plant.run(60, lambda _: 0.3)
    assert plant.moves[-1][0] - began < CALM_S + 5


def test_few_tokens_say_nothing() -> None:
    plant = Plant()
    for _ in range(LEAST_GAPS - 1):
        plant.controller.token(1.0)
    assert plant.controller.update(Load()) == 0
    plant.controller.token(1.0)
    assert plant.controller.update(Load()) == 2


def test_slow_answers_count_though_the_mean_is_fine() -> None:
    controller = SwitchController(MS, {"tpot": 0.03}, lambda: 0.0)
    for _ in range(100):
        controller.token(0.01)
    for per_token, level in ((0.01, 0), (0.028, 0), (0.028, 1)):
        controller.answered(per_token)
        assert controller.update(Load()) == level


def test_one_long_prompt_says_nothing() -> None:
    controller = SwitchController(MS, {"ttft": 0.2}, lambda: 0.0)
    for level in (0, 0, 2):
        controller.first_token(1.0)
        assert controller.update(Load()) == level


def test_a_request_that_waits_counts_before_it_has_its_first_token() -> None:
    now = [0.0]
    controller = SwitchController(MS, {"ttft": 0.2}, lambda: now[0])
    controller.queued(0.02)
    controller.first_token(0.1)
    assert controller.update(Load(waited=0.05)) == 0
    assert controller.update(Load(waited=0.09)) > 0  # and 0.08 s to read a prompt
    assert controller.cause == "ttft"


def test_slots_that_are_nearly_taken_count_where_the_first_token_is_limited() -> None:
    for limits, level in (({"ttft": 1.0}, 1), ({"tpot": 1.0}, 0)):
        controller = SwitchController(MS, limits, lambda: 0.0)
        assert controller.update(Load(active=7 / 8, all=7 / 8)) == level


def test_it_does_not_return_while_the_slots_of_all_are_taken() -> None:
    plant = Plant()
    plant.run(5, lambda _: 1.0)
    plant.run(100, lambda _: 0.1, Load(active=0.5, all=ROOM))
    assert plant.controller.level == 1
    plant.run(100, lambda _: 0.1, Load(active=0.2, all=0.2))
    assert plant.controller.level == 0


def test_one_break_in_the_calm_begins_it_anew() -> None:
    plant = Plant()
    plant.run(5, lambda _: 1.0)
    plant.run(9, lambda _: 0.2)
    plant.run(2, lambda _: 0.75)
    broken = plant.now
    plant.run(30, lambda _: 0.2)
    assert plant.moves[-1][1] == 0
    assert plant.moves[-1][0] >= broken + CALM_S


def test_a_window_forgets() -> None:
    window = SlidingWindow(2.0)
    assert (window.mean(0.0), window.quantile(0.0, 0.8)) == (0, 0)
    for at in range(5):
        window.add(float(at), float(at))
    assert window.mean(4.0) == 3.0
    assert window.quantile(4.0, 0.5) == 3.0
    assert window.quantile(4.0, 1.0) == 4.0
    assert window.mean(4.0, least=3) == 3.0
    assert window.mean(4.0, least=4) == 0
    assert window.mean(7.0) == 0
    window.add(8.0, 5.0)
    window.clear()
    assert window.mean(8.0) == 0


def test_history_counts_switches_and_seconds() -> None:
    now = [10.0]
    history = SwitchHistory(["a", "b"], lambda: now[0])
    now[0] = 12.0
    assert not history.note("a")
    assert history.note("b")
    now[0] = 15.0
    assert history.seconds() == {"a": 2.0, "b": 3.0}
    assert history.switches == {"a": 0, "b": 1}
