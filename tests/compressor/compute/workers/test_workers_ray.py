"""Real workers of a local Ray: the same bits as one process, and what happens when they are lost."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch

from lathe.artefact.errors import UserError
from lathe.compressor.compute.workers import LocalWorkers, Workers
from lathe.compressor.compute.workers.ray import RayWorkers
from lathe.compressor.compute.workers.ray_config import RayConfig
from lathe.compressor.reconstruction.kl_passes import KLProblem
from lathe.compressor.reconstruction.kl_refinement import ModelStep
from lathe.compressor.search.method import methods
from lathe.compressor.search.methods.lathe import measure_sensitivities
from support.tiny_problem import Lab
from support.worker_tasks import Deadly, Fragile, lives, numbers, refuse

TESTS = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(TESTS), prepend=os.pathsep)
        with closing(RayWorkers(RayConfig(2, None, 1))) as found:
            yield found


def test_damages_are_those_of_one_process(lab: Lab, tmp_path: Path, workers: Workers) -> None:
    tables = []
    for name, who in (("here", LocalWorkers()), ("there", workers)):
        (tmp_path / name).mkdir()
        tables.append(measure_sensitivities(lab.problem(tmp_path / name, workers=who)))
    assert all((a == b).all() for a, b in zip(*tables, strict=True))


@pytest.mark.parametrize("method", ["policy-gradient", "evopress"])
def test_a_search_is_that_of_one_process(lab: Lab, tmp_path: Path, workers: Workers, method: str) -> None:
    found = []
    for name, who in (("here", LocalWorkers()), ("there", workers)):
        (tmp_path / name).mkdir()
        fitted = lab.windows[~lab.heldout]
        problem = lab.problem(tmp_path / name, workers=who, fitted=fitted, evaluations=8)
        found.append(methods.get(method).search(problem))
    assert (found[0].plan, found[0].fitness) == (found[1].plan, found[1].fitness)
    for here, there in zip(found[0].selections, found[1].selections, strict=True):
        assert here.channels.equal(there.channels)


def test_sums_over_text_are_those_of_one_process_bit_by_bit(lab: Lab, workers: Workers) -> None:
    generator = torch.Generator().manual_seed(0)
    subnet = [
        {n: w + 0.01 * torch.randn(w.shape, generator=generator) for n, w in layer.items()}
        for layer in lab.layers
    ]
    text = KLProblem(lab.model, subnet, lab.windows, lab.heldout)
    here, there = ModelStep(text, LocalWorkers()), ModelStep(text, workers)
    assert here.error(here.start) == there.error(there.start)
    direction = here.descent()
    for mine, other in (
        (direction, there.descent()),
        (here.curvature(direction), there.curvature(direction)),
        ([*here.factors().solve(direction)], [*there.factors().solve(direction)]),
    ):
        assert all(torch.equal(a[n], b[n]) for a, b in zip(mine, other, strict=True) for n in a)


def test_answers_come_in_order_and_refusals_come_through(workers: Workers) -> None:
    assert [*workers.map(abs, range(-20, 0))] == [*range(20, 0, -1)]
    with pytest.raises(UserError, match=r"3 will not do. Give another."):
        [*workers.map(refuse, range(5))]


def test_a_lost_workers_piece_is_done_again(workers: Workers, tmp_path: Path) -> None:
    task = Deadly(2, lives(tmp_path, 1))
    assert [*workers.map(task, range(6))] == [0, 1, 4, 9, 16, 25]
    assert not any(tmp_path.iterdir())


def test_pieces_that_each_lose_a_worker_are_done_again(workers: Workers, tmp_path: Path) -> None:
    text = Fragile(lives(tmp_path / "0", 2), lives(tmp_path / "4", 2))
    assert [list(step) for step in workers.map_shards(text, numbers)] == [[*range(8)]]
    assert not any(tmp_path.glob("*/*"))


def test_a_piece_that_takes_every_worker_with_it_is_given_up(workers: Workers, tmp_path: Path) -> None:
    said = r"worker \d+ \(process \d+ on .*\) was lost, the 3rd in a row on the same piece of work"
    with pytest.raises(UserError, match=said):
        [*workers.map(Deadly(2, lives(tmp_path, 9)), range(6))]
