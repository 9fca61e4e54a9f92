"""Arrays on disk are those in memory; what cannot be kept says so."""

from __future__ import annotations

import resource
import signal
from pathlib import Path

import pytest
import torch

from lathe.artefact.errors import UserError
from lathe.compressor.compute.array_store import ArrayStore, Loaded


@pytest.fixture(params=["memory", "disk"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArrayStore:
    return ArrayStore(tmp_path if request.param == "disk" else None)


def test_rows_are_read_as_they_were_written(store: ArrayStore, tmp_path: Path) -> None:
    values, rows = torch.randn(7, 3, 5), store.rows(7, 3, 5)
    for part in (torch.tensor([4, 0, 6]), torch.tensor([1]), torch.tensor([2, 3, 5])):
        rows[part] = values[part]
    rows[torch.tensor([1])] = values[torch.tensor([2])]
    values[1] = values[2]
    assert torch.equal(rows[:], values)
    assert torch.equal(store.copy(rows)[torch.tensor([6, 2])], values[[6, 2]])
    assert (len(rows), tuple(rows.shape)) == (7, (7, 3, 5))
    assert not [*tmp_path.iterdir()]


def test_what_is_read_is_a_copy(store: ArrayStore) -> None:
    rows = store.copy(torch.zeros(2, 2))
    rows[torch.tensor([0])].add_(1)
    assert not rows[:].any()


def test_parts_are_read_as_they_were_kept(store: ArrayStore) -> None:
    parts = [{"a": torch.randn(2, 3), "b": torch.randn(4)}, {}, {"a": torch.randn(3, 2).T}]
    for kept in (store.keep(iter(parts)), store.keep(reversed(parts), backwards=True)):
        assert [list(part) for part in kept] == [["a", "b"], [], ["a"]]
        assert all(torch.equal(kept[i][n], v) for i, part in enumerate(parts) for n, v in part.items())


def test_of_loaded_parts_only_the_last_one_stays() -> None:
    asked: list[int] = []
    parts = Loaded(3, lambda i: asked.append(i) or {"at": torch.tensor(i)})  # type: ignore[func-returns-value]
    for index in (0, 0, 2, 2, 0):
        assert int(parts[index]["at"]) == index
    assert asked == [0, 2, 0]
    assert [int(part["at"]) for part in parts] == [0, 1, 2]


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    rows = ArrayStore(tmp_path).rows(8, 1024)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(UserError, match=f"cannot keep working data in {tmp_path}.*Free some space"):
            rows[:] = torch.zeros(8, 1024)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
