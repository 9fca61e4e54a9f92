"""Runs whose workers are killed: the same artefact in the end, or a sentence and then the same artefact."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from crash_rig import finish, hashes, left_behind, row, start, workers_of

pytestmark = pytest.mark.crash
SPREAD = ("--ray", "local:2", "--worker-threads", "1")
_TABLE = list[dict[str, Any]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Hashes of the artefact that one process makes."""
    out = tmp_path_factory.mktemp("whole") / "out"
    done = finish(out)
    assert done.returncode == 0, done.stderr
    return hashes(out)


@pytest.mark.parametrize("stage", ["layer-", "trace-", "reformed-"])
def test_a_worker_killed_in_mid_run_is_replaced(
    stage: str, whole: dict[str, str], tmp_path: Path, table: _TABLE
) -> None:
    process = start(tmp_path / "out", *SPREAD)
    _until(stage, tmp_path)
    victim, *_ = workers_of(process)
    victim.kill()
    left = left_behind(tmp_path / "out")
    _, said = process.communicate(timeout=900)
    assert process.returncode == 0, said
    assert hashes(tmp_path / "out") == whole
    table.append(row("lost worker", f"once there is {stage}*", left, "replaced, identical"))


def test_workers_that_cannot_be_replaced_are_said_and_the_run_goes_on_later(
    whole: dict[str, str], tmp_path: Path, table: _TABLE
) -> None:
    process = start(tmp_path / "out", *SPREAD)
    _until("layer-", tmp_path)
    while process.poll() is None:
        for worker in workers_of(process):
            worker.kill()
        time.sleep(0.05)
    _, said = process.communicate()
    left = left_behind(tmp_path / "out")
    assert process.returncode == 1, said
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert "was lost" in line
    assert "Run the same command again: what was finished is kept" in line
    again = finish(tmp_path / "out")
    assert again.returncode == 0, again.stderr
    assert "resuming from" in again.stderr
    assert hashes(tmp_path / "out") == whole
    table.append(row("lost workers", "all, again and again", left, "said, resumed, identical"))


def test_workers_go_with_a_run_that_is_killed(whole: dict[str, str], tmp_path: Path, table: _TABLE) -> None:
    process = start(tmp_path / "out", *SPREAD)
    _until("trace-", tmp_path)
    family, workers = psutil.Process(process.pid).children(recursive=True), workers_of(process)
    assert len(workers) == 2
    process.kill()
    process.communicate()
    left = left_behind(tmp_path / "out")
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive
    _, alive = psutil.wait_procs(family, timeout=300)  # agents first try to tell a cluster that is gone
    assert not alive
    again = finish(tmp_path / "out", *SPREAD)
    assert again.returncode == 0, again.stderr
    assert hashes(tmp_path / "out") == whole
    table.append(row("kill -9, workers", "in the search", left, "workers gone, resumed, identical"))


def _until(stage: str, folder: Path) -> None:
    while not any((folder / "out.run").glob(f"{stage}*")):
        time.sleep(0.02)
