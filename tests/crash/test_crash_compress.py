"""Runs that are killed, run out of disk or of memory: a clear sentence, and the same artefact in the end.

POINTS=20 says how many times a run is killed.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from crash_rig import finish, hashes, left_behind, row, start

pytestmark = pytest.mark.crash
_POINTS = int(os.environ.get("POINTS", "20"))
_TABLE = list[dict[str, Any]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], float]:
    """Hashes of the uninterrupted run's artefact, and its seconds."""
    out, begun = tmp_path_factory.mktemp("whole") / "out", time.monotonic()
    done = finish(out)
    assert done.returncode == 0, done.stderr
    return hashes(out), time.monotonic() - begun


@pytest.mark.parametrize("number", range(_POINTS))
def test_a_run_killed_at_a_random_moment_ends_in_the_same_artefact(
    number: int, whole: tuple[dict[str, str], float], tmp_path: Path, table: _TABLE
) -> None:
    expected, seconds = whole
    out, moment = tmp_path / "out", random.Random(number).uniform(0.02, 0.95) * seconds
    process = start(out)
    try:
        process.communicate(timeout=moment)
        killed = "finished before"
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        killed = f"after {moment:.1f} of {seconds:.1f} s"
    left = left_behind(out)
    again = finish(out, "--overwrite")
    same = again.returncode == 0 and hashes(out) == expected
    table.append(row("kill -9", killed, left, "identical" if same else "DIFFERENT"))
    assert again.returncode == 0, again.stderr
    assert hashes(out) == expected
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", str(place)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.parametrize("stage", ["layer-", "reformed-", "whole-"])
def test_a_disk_that_fills_up_is_said_and_freed_space_lets_the_run_go_on(
    stage: str, small_disk: Path, whole: tuple[dict[str, str], float], table: _TABLE
) -> None:
    out, ballast = small_disk / "out", small_disk / "ballast"
    process = start(out)
    while process.poll() is None and not any((small_disk / "out.run").glob(f"{stage}*")):
        time.sleep(0.02)
    _fill(ballast)
    _, said = process.communicate()
    left = left_behind(out)
    assert process.returncode == 1, said
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert "No space left on device" in line
    assert "ree some space" in line or "Free space" in line
    ballast.unlink()
    again = finish(out)
    assert again.returncode == 0, again.stderr
    assert hashes(out) == whole[0]
    table.append(row("disk full", f"once there is {stage}*", left, "said, resumed, identical"))


def test_a_memory_limit_that_is_hit_is_said_and_a_higher_one_lets_the_run_go_on(
    tmp_path: Path, whole: tuple[dict[str, str], float], table: _TABLE
) -> None:
    """The forecast is made to promise too much."""
    from crash_rig import ROOT, command, environment

    lying = command(tmp_path / "out", "--export", "checkpoint", "--memory-limit", "2GiB")
    lying[2] = (
        "from lathe.compressor.reconstruction import variants\n"
        "import torch\n"
        "reconstruct = variants.reconstruct\n"
        "def hungry(*given): torch.ones(2**30); return reconstruct(*given)\n"
        "variants.reconstruct = hungry\n"
    ) + lying[2]
    starved = subprocess.run(lying, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=900)
    assert starved.returncode == 1, starved.stderr
    assert "error: the memory limit of 2.00 GiB was hit. Run the same command with a higher" in starved.stderr
    left = left_behind(tmp_path / "out")
    again = finish(tmp_path / "out", "--export", "checkpoint", "--memory-limit", "4GiB")
    assert again.returncode == 0, again.stderr
    assert "resuming from" in again.stderr
    found = hashes(tmp_path / "out")
    assert found == {name: whole[0][name] for name in found}
    table.append(row("memory limit", "reconstruction asks for 4 GiB", left, "said, resumed, identical"))


def _fill(path: Path) -> None:
    """Leave nothing of the disk."""
    with path.open("wb") as file:
        try:
            while True:
                file.write(bytes(2**16))
                file.flush()
        except OSError:
            return
