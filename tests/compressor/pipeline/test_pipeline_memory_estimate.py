"""Memory limits: what is promised before a run, and that it is kept without changing the artefact."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.compress_command import Tiny, content, lathe, make_tiny

SAME = ("config.json", "plan.json", "model.safetensors")
TARGET = ("--keep", "60%", "--export", "checkpoint")
BITS = ("--target-memory", "180kB", "--bits", "auto")
RUN = "from lathe.cli import compress; compress()"


def process(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Another process, as what this one has in memory would count."""
    root = str(Path(__file__).parents[3])
    environment = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def needs(tiny: Tiny, tmp_path: Path, *options: str, target: tuple[str, ...] = TARGET) -> dict[str, Any]:
    done = tiny.compress(tmp_path / "out", *target, "--dry-run", "--json", *options)
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.stdout)["memory"])


@pytest.mark.parametrize("target", [TARGET, BITS])
def test_within_a_limit_the_artefact_is_the_same(tiny: Tiny, tmp_path: Path, target: tuple[str, ...]) -> None:
    memory = needs(tiny, tmp_path, target=target)
    assert not memory["on_disk"]
    limit = max(memory["stages_on_disk_bytes"].values())
    assert limit < memory["in_memory_bytes"] == memory["peak_bytes"]
    assert tiny.compress(tmp_path / "free", *target).exit_code == 0
    done = process(RUN, *tiny.arguments(tmp_path / "out", *target, "--memory-limit", f"{limit}b", "--json"))
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["memory"]["on_disk"]
    assert report["peak_memory_bytes"] <= limit
    assert content(tmp_path / "out", SAME) == content(tmp_path / "free", SAME)
    free = json.loads((tmp_path / "free" / "report.json").read_text())
    assert report["perplexity"]["subnet"] == pytest.approx(free["perplexity"]["subnet"], rel=1e-5)


@pytest.mark.slow
def test_text_that_the_model_writes_layer_by_layer_is_the_same(tiny: Tiny, tmp_path: Path) -> None:
    limit = max(needs(tiny, tmp_path)["stages_on_disk_bytes"].values())
    for name, options in (("free", ()), ("out", ("--memory-limit", f"{limit}b"))):
        arguments = tiny.arguments(tmp_path / name, *TARGET, *options)
        arguments[arguments.index("--calibration") + 1] = "self"
        done = process(RUN, *arguments)
        assert done.returncode == 0, done.stderr
    assert content(tmp_path / "out", SAME) == content(tmp_path / "free", SAME)


def test_a_limit_that_cannot_be_kept_is_refused_before_anything_is_read(tiny: Tiny, tmp_path: Path) -> None:
    done = tiny.compress(tmp_path / "out", *TARGET, "--memory-limit", "200MiB")
    assert done.exit_code == 1
    assert "error: a memory limit of 200 MiB cannot be kept: the stage `" in done.stderr
    assert "Give at least" in done.stderr
    assert not [*tmp_path.iterdir()]


def test_a_graph_is_what_a_limit_may_have_no_room_for(tiny: Tiny, tmp_path: Path) -> None:
    for export, said in (("checkpoint", False), ("checkpoint,onnx", True)):
        done = lathe(
            "compress",
            str(tiny.model),
            "-o",
            str(tmp_path / "out"),
            "--keep",
            "60%",
            "--calibration",
            str(tiny.text),
            "--context",
            "64",
            "--export",
            export,
            "--dry-run",
            "--json",
        )
        stages = json.loads(done.stdout)["memory"]["stages_on_disk_bytes"]
        assert ("measure and verify in ONNX Runtime" in stages) == said


def test_rounding_the_tables_of_tokens_takes_memory(tmp_path: Path) -> None:
    wide = make_tiny(tmp_path / "wide", vocab_size=2**16)
    target = ("--target-memory", "60MiB")
    plain, bits = (
        needs(wide, tmp_path, target=(*target, *options))["stages_on_disk_bytes"]
        for options in ((), ("--bits", "auto"))
    )
    table = 4 * 64 * 2**16
    assert bits["search"] - plain["search"] > 5 * table


def test_a_method_without_the_reform_of_the_whole_is_not_forecast_one(tiny: Tiny, tmp_path: Path) -> None:
    checked, limit = [], max(needs(tiny, tmp_path)["stages_on_disk_bytes"].values())
    for method in ("lathe", "quick"):
        asked = (*TARGET, "--method", method, "--memory-limit", f"{limit}b", "--dry-run", "--json")
        done = tiny.compress(tmp_path / "out", *asked)
        checked.append(json.loads(done.stdout))
    default, quick = checked
    assert quick["disk_bytes"] < default["disk_bytes"]
    more = default["memory"]["stages_on_disk_bytes"].keys() - quick["memory"]["stages_on_disk_bytes"]
    assert more == {"reconstruct the whole model", "text that the model writes"}


HIT = """
import psutil, torch
from lathe.artefact.errors import UserError
from lathe.compressor.pipeline.memory_limit import memory_limit
try:
    with memory_limit(psutil.Process().memory_info().rss + 2**26):
        torch.zeros(2**28)
except UserError as error:
    print(error)
torch.zeros(2**26)
"""


def test_a_limit_that_is_hit_ends_in_a_sentence_and_is_lifted(tmp_path: Path) -> None:
    done = process(HIT)
    assert done.returncode == 0, done.stderr
    assert "was hit. Run the same command with a higher --memory-limit: what was finished" in done.stdout
