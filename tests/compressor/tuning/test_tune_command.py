"""`lathe tune` on a tiny model: the report, the saved options, killed and resumed, refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from lathe.compressor.latency.table import LatencyTable
from lathe.compressor.tuning import tune as module
from lathe.compressor.tuning.study import FILE
from support.compress_command import Tiny, lathe

pytestmark = pytest.mark.usefixtures("steady", "own_cache")
SPACE = ("--method", "quick", "--tune", "refinements=0,1", "--tune", "ffn-levels=4..16")
KILLING = """
import os, signal
from lathe.cli import lathe
from lathe.compressor.tuning.trial_runner import TrialRunner
passed, run = 0, TrialRunner._run

def killing(self, context):
    global passed
    passed += 1
    if passed == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return run(self, context)

TrialRunner._run = killing
lathe()
"""


def arguments(tiny: Tiny, out: Path, *options: str) -> list[str]:
    command = tiny.arguments(out, "--keep", "60%", "--export", "checkpoint", *options)
    at = command.index("--evaluations")
    judged = ("--evaluation", str(tiny.text), "--confirm", "1")
    return ["tune", *command[:at], *command[at + 2 :], *judged, *SPACE]


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_a_killed_tuning_resumes_and_its_options_give_the_reported_loss_again(
    tiny: Tiny, tmp_path: Path
) -> None:
    out, saved = tmp_path / "study", tmp_path / "best.yaml"
    asked = arguments(tiny, out, "--trials", "3", "--sampler", "random", "--save", str(saved))
    paths = os.pathsep.join(str(Path(__file__).parents[n]) for n in (2, 3))
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    killed = subprocess.run(
        [sys.executable, "-c", KILLING, *asked], env=environment, capture_output=True, text=True, timeout=300
    )
    assert killed.returncode == -9, killed.stderr
    assert not (out / "tuning.json").exists()

    done = lathe(*asked, "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report == read(out / "tuning.json")
    assert len(report["trials"]) == 3
    assert {row["state"] for row in report["trials"]} == {"complete"}
    assert report["default"]["values"] == {"refinements": "0", "ffn-levels": "32"}
    losses = [row["loss_increase"] for row in report["trials"]]
    assert report["best"]["loss_increase"] == min(losses)
    assert "<svg" in (out / "tuning.svg").read_text()

    made = lathe("compress", "--config", str(saved), "-o", str(tmp_path / "made"), "--json")
    assert made.exit_code == 0, made.output
    perplexity = json.loads(made.stdout)["perplexity"]["subnet"]
    assert perplexity == report["best"]["perplexity"]
    assert str(yaml.safe_load(saved.read_text())["ffn-levels"]) == report["best"]["values"]["ffn-levels"]


def test_a_target_of_latency_is_kept_and_the_model_writes_what_is_judged(tiny: Tiny, tmp_path: Path) -> None:
    out = tmp_path / "study"
    asked = arguments(tiny, out, "--trials", "2", "--sampler", "nomad")
    for name in ("--keep", "--evaluation", "--export"):
        del asked[asked.index(name) : asked.index(name) + 2]
    done = lathe(*asked, "--target-speedup", "1.3x")
    assert done.exit_code == 0, done.output
    report = read(out / "tuning.json")
    assert Path(report["evaluation"]).samefile(out / "evaluation.txt")
    assert all(row["ms"] > 0 for row in report["trials"])
    assert LatencyTable.from_json(read(out / "latency-table.json")).dense_ms > 0
    assert "lie within" in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--tune", "damping=0.1..1e-5"), "the bounds are reversed"),
        (("--sampler", "annealing"), "there is no sampler `annealing`"),
        (("--trials", "0"), "--trials 0 is too few"),
        (("--time-budget", "soon"), "`soon` is not a time"),
        (("--save", "best.txt"), "--save best.txt is neither YAML nor JSON"),
        (("--target-memory", "1KiB"), "is below the floor"),
    ],
)
def test_bad_input_is_refused_before_a_weight_is_read(
    options: tuple[str, ...],
    message: str,
    tiny: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "TrialRunner", None)
    done = lathe(*arguments(tiny, tmp_path / "study"), *options)
    assert done.exit_code == 1
    assert message in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")


def test_a_dry_run_prints_the_space_and_writes_nothing(tiny: Tiny, tmp_path: Path) -> None:
    out = tmp_path / "study"
    done = lathe(*arguments(tiny, out, "--dry-run", "--json"))
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["space"] == {"refinements": [0, 1], "ffn-levels": [4, 8, 16]}
    assert found["points"] == found["trials"] == 6
    assert found["seconds"] > 0
    assert not out.exists()


def test_a_foreign_database_is_refused_before_a_weight_is_read(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TrialRunner", None)
    out = tmp_path / "study"
    out.mkdir()
    (out / FILE).write_text("notes")
    done = lathe(*arguments(tiny, out))
    assert done.exit_code == 1
    assert f"{out / FILE} is not a database of trials" in done.stderr
