"""What workers promise, shown by the ones that need nothing: the order of things, and what may travel."""

from __future__ import annotations

import gc
import importlib.util
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lathe.artefact.errors import UserError
from lathe.compressor.compute.array_store import Loaded
from lathe.compressor.compute.workers import SHARDS, LocalWorkers, Sharded, shards_of, summed
from lathe.compressor.compute.workers.ray_config import parse_place
from lathe.compressor.compute.workers.serialization import pack, unpack
from lathe.compressor.pipeline.memory_estimate import memory_plan
from lathe.compressor.pipeline.options import CompressOptions
from support.tiny_problem import Lab


class Numbers(Sharded[list[list[int]]]):
    def hold(self, shards: range) -> list[list[int]]:
        return shards_of(range(20), shards)


class Remembering(Sharded["Memory"]):
    def hold(self, shards: range) -> Memory:
        return Memory(self)


class Memory:
    """Keeps arrays for a text, and knows the text."""

    def __init__(self, text: Remembering) -> None:
        self.text, self.array = text, torch.zeros(4)


def twice(held: list[list[int]]) -> Iterator[list[int]]:
    """Two steps: sums, and squares."""
    yield [sum(shard) for shard in held]
    yield [sum(shard) ** 2 for shard in held]


@pytest.mark.parametrize("count", [0, 1, 5, 8, 14, 28, 100])
def test_every_batch_is_in_one_shard_and_shards_are_alike(count: int) -> None:
    shards = shards_of(range(count), range(SHARDS))
    assert [batch for shard in shards for batch in shard] == list(range(count))
    assert len(shards) == min(count, SHARDS)
    assert max(map(len, shards), default=0) - min(map(len, shards), default=0) <= 1


@pytest.mark.parametrize("holders", [2, 3, 5])
def test_holders_of_some_shards_have_together_what_one_of_all_has(holders: int) -> None:
    bounds = [SHARDS * i // holders for i in range(holders + 1)]
    parts = [shards_of(range(14), range(*bounds[i : i + 2])) for i in range(holders)]
    assert [shard for part in parts for shard in part] == shards_of(range(14), range(SHARDS))


def test_work_here_is_done_piece_by_piece_when_it_is_asked_for() -> None:
    done: list[int] = []

    def task(item: int) -> int:
        done.append(item)
        return -item

    answers = LocalWorkers().map(task, [3, 1, 2])
    assert (next(answers), done) == (-3, [3])
    assert [*answers] == [-1, -2]
    sums, squares = LocalWorkers().map_shards(Numbers(), twice)
    assert sum(sums) == sum(range(20))
    assert [*squares] == [s**2 for s in sums]


def test_what_is_held_for_a_text_is_gone_with_it_at_once() -> None:
    text = Remembering()
    held = weakref.ref(text.attach(range(SHARDS)))
    assert held() is text.attach(range(SHARDS))
    gc.disable()
    try:
        del text
        assert held() is None
    finally:
        gc.enable()


def test_a_sum_is_of_its_parts_in_order() -> None:
    parts = [{"a": torch.tensor([value])} for value in (1e8, 1.0, -1e8, 1.0)]
    assert summed(parts)["a"].item() == 1.0
    assert [part["a"].item() for part in parts] == [1e8, 1.0, -1e8, 1.0], "the parts are left as they are"


def test_what_travels_arrives_the_same_and_may_be_written_to() -> None:
    tensors = {"a": torch.arange(6.0).view(2, 3).T, "b": torch.tensor([True, False])}
    found = unpack(pack((tensors, Loaded(2, lambda i: {"i": torch.tensor(i)}), range(3))))
    assert all(torch.equal(found[0][name], value) for name, value in tensors.items())
    assert [int(part["i"]) for part in found[1]] == [0, 1]
    found[0]["a"] += 1


def test_a_model_travels_as_its_place_and_is_opened_once(lab: Lab) -> None:
    first, again = unpack(pack(lab.model)), unpack(pack(lab.model))
    assert first is again
    assert all(torch.equal(first.layers[1][name], value) for name, value in lab.layers[1].items())
    assert first.source.shape == lab.source.shape


def test_a_place_is_checked_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_place("local:2", 3).own_threads == 3
    assert parse_place("10.0.0.7:6379", None).address == "10.0.0.7:6379"
    for text, threads, said in (
        ("local:0", None, "asks for no worker"),
        ("local", None, "is not a place"),
        ("ray://host", None, "is not a place"),
        ("local:2", 0, "is not a number of threads"),
    ):
        with pytest.raises(UserError, match=said):
            parse_place(text, threads)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(UserError, match=r"needs Ray, which is not installed. pip install 'lathe\[ray\]'"):
        parse_place("local:2", None)


def test_workers_that_memory_does_not_hold_are_refused(lab: Lab, tmp_path: Path) -> None:
    given = {"model": str(lab.source.path), "out": tmp_path / "out", "keep": 0.5}
    with pytest.raises(UserError, match="for a run of one process"):
        CompressOptions(**given, ray="local:2", memory_limit=2**33)
    with pytest.raises(UserError, match="--worker-threads is for workers"):
        CompressOptions(**given, worker_threads=2)
    with pytest.raises(UserError, match=r"each of 100001 processes will need .* Ask for fewer workers"):
        memory_plan(CompressOptions(**given, ray="local:100000"), lab.source)
