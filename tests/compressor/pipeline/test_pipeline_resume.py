"""kill -9 at any point, the same command again: it resumes, and the artefact is the uninterrupted one's."""

from __future__ import annotations

import fcntl
import signal
from pathlib import Path

import pytest

from lathe.artefact import fingerprint as fingerprint_module
from lathe.compressor.pipeline import latency_loop
from support.compress_command import Tiny, content

SAME = ("config.json", "plan.json", "model.safetensors", "onnx/model.onnx", "onnx/model.onnx.data")
TARGET = ("--keep", "60%", "--seed", "0")

pytestmark = pytest.mark.usefixtures("steady")


@pytest.fixture(scope="module")
def uninterrupted(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("whole") / "out"
    assert tiny.compress(out, *TARGET).exit_code == 0
    return content(out, SAME)


def check(tiny: Tiny, out: Path, point: str, whole: dict[str, bytes]) -> None:
    killed = tiny.killed(out, point, *TARGET)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not out.exists()
    done = tiny.compress(out, *TARGET)
    assert done.exit_code == 0, done.output
    assert f"resuming from {out}.run" in done.stderr.replace("\n", "")
    assert content(out, SAME) == whole
    assert [entry.name for entry in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("point", ["replace:2", "evaluate:30"])
def test_a_killed_run_resumes(
    tiny: Tiny, tmp_path: Path, point: str, uninterrupted: dict[str, bytes]
) -> None:
    check(tiny, tmp_path / "out", point, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("point", [*(f"replace:{n}" for n in range(3, 26, 2)), "evaluate:5", "rename:1"])
def test_a_run_killed_anywhere_resumes(
    tiny: Tiny, tmp_path: Path, point: str, uninterrupted: dict[str, bytes]
) -> None:
    check(tiny, tmp_path / "out", point, uninterrupted)


def test_a_second_run_on_the_same_output_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "out.run").mkdir()
    with (tmp_path / "out.run" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = tiny.compress(tmp_path / "out", *TARGET)
    assert done.exit_code == 1
    assert f"error: another compress is working on {tmp_path / 'out'}" in done.stderr


def test_a_resumed_run_keeps_the_milliseconds_it_had_measured(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATHE_CACHE", str(tmp_path / "cache"))
    target = ("--target-speedup", "1.3x", "--seed", "0")
    assert tiny.compress(tmp_path / "whole", *target).exit_code == 0
    killed = tiny.killed(tmp_path / "out", "evaluate:30", *target)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    monkeypatch.setattr(latency_loop, "cached_table", lambda *_: pytest.fail("measured again"))
    done = tiny.compress(tmp_path / "out", *target)
    assert done.exit_code == 0, done.output
    assert content(tmp_path / "out", SAME) == content(tmp_path / "whole", SAME)


def test_a_run_that_goes_on_elsewhere_measures_again(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATHE_CACHE", str(tmp_path / "cache"))
    target, out = ("--target-speedup", "1.3x", "--seed", "0"), tmp_path / "out"
    assert tiny.killed(out, "evaluate:30", *target).returncode == -signal.SIGKILL
    tables, measure = [], latency_loop.cached_table
    monkeypatch.setattr(latency_loop, "cached_table", lambda *asked: tables.append(asked) or measure(*asked))
    monkeypatch.setattr(fingerprint_module, "huge_page_bytes", lambda: 0)
    done = tiny.compress(out, *target)
    assert done.exit_code == 0, done.output
    assert f"resuming from {out}.run" in done.stderr.replace("\n", "")
    assert len(tables) == 1
