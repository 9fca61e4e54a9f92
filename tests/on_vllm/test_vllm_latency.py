"""The latency backend: what a step is, engines side by side, and the command that measures with them."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from test_vllm_parity import TINY

from conftest import DEMO
from lathe.compressor.compute.progress import Progress
from lathe.compressor.latency import bench
from lathe.compressor.latency.backend import backends
from lathe.compressor.latency.effort import QUICK
from lathe.compressor.latency.measure import LatencyBenchmark
from lathe.compressor.latency.workload import Workload
from lathe.compressor.model.checkpoint import Checkpoint
from support.tiny_llama import PLANS, checkpoint

CONTEXT = 100
MEMORY = 7 * 2**30
"""Address space that the command gets: one run of it was once killed at 20 GiB (docs/vllm.md)."""


@pytest.fixture
def source(tmp_path: Path) -> Checkpoint:
    return checkpoint(tmp_path / "source", **TINY)


def build(directory: Path, source: Checkpoint, plan: str) -> Path:
    directory.mkdir()
    backends.get("vllm").build(directory, source, PLANS[plan], 4)
    return directory


def lengths(step: Any) -> list[int]:
    """Tokens that the engine has worked through, of every request at hand."""
    return [request.num_computed_tokens for request in requests(step)]


def requests(step: Any) -> list[Any]:
    return list(step._engine.engine_core.engine_core.scheduler.running)


def test_a_decode_step_adds_one_token_to_each_request_around_the_context(
    tmp_path: Path, source: Checkpoint
) -> None:
    model = build(tmp_path / "mixed", source, "mixed")
    step = backends.get("vllm").prepare(model, Workload("tpot", 3, CONTEXT), 1)
    seen, before = [], []
    for _ in range(100):
        step()
        after = lengths(step)
        if before and after:
            assert after == [length + 1 for length in before]
        seen += after
        before = after
        assert len(after) in (0, 3)
    assert CONTEXT - 16 <= min(seen) < CONTEXT < max(seen) <= CONTEXT + 16


def test_the_context_may_reach_the_models_last_position(tmp_path: Path, source: Checkpoint) -> None:
    step = backends.get("vllm").prepare(build(tmp_path / "m", source, "dense"), Workload("tpot", 1, 511), 1)
    for _ in range(70):
        step()
    assert max(lengths(step)) < 512


def test_a_prefill_leaves_nothing_behind(tmp_path: Path, source: Checkpoint) -> None:
    step = backends.get("vllm").prepare(build(tmp_path / "m", source, "mixed"), Workload("ttft", 4, 511), 1)
    for _ in range(2):
        step()
        assert requests(step) == []


def test_engines_live_side_by_side_and_are_replaced(tmp_path: Path, source: Checkpoint) -> None:
    models = [build(tmp_path / name, source, name) for name in ("dense", "mixed", "groups")]
    set_num_threads = torch.set_num_threads
    for _ in range(2):
        steps = [backends.get("vllm").prepare(model, Workload("tpot", 1, 24), 1) for model in models]
        for step in steps * 3:
            step()
    assert torch.set_num_threads is set_num_threads  # vLLM would leave one that does nothing


def test_a_meter_compares_plans(tmp_path: Path, source: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "_REPEAT_SECONDS", 0.05)
    monkeypatch.setattr(bench, "_SETTLE_SECONDS", 0.0)
    benchmark = LatencyBenchmark(
        source, backends.get("vllm"), Workload("e2e", 2, 24, 8), 1, Progress(quiet=True)
    )
    found = benchmark.compare(PLANS["whole layers"], QUICK)
    assert len(found.dense.repeats) == len(found.subnet.repeats) == QUICK.loads
    assert min(found.subnet.repeats) > 0


def limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def compress(out: Path, *options: str) -> dict[str, Any]:
    text = ["--calibration", str(DEMO / "heldout.txt"), "--calibration-tokens", "2048", "--evaluations", "1"]
    command = [
        str(Path(sys.executable).parent / "compress"),
        str(DEMO / "model"),
        "-o",
        str(out),
        *text,
        "--target-speedup",
        "1.3x",
        "--latency-metric",
        "ttft",
        "--backend",
        "vllm",
        "--export",
        "checkpoint,vllm",
        "--json",
        "--debug",
        *options,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, preexec_fn=limit_memory)
    assert done.returncode in (0, 3), done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_the_command_measures_on_vllm(tmp_path: Path) -> None:
    card = compress(tmp_path / "out", "--dry-run")["latency"]
    assert card["target_ms"] == pytest.approx(card["dense_ms"] / 1.3)
    assert 0 < card["floor_ms"] < card["target_ms"]


@pytest.mark.slow
def test_the_command_meets_a_target_on_vllm(tmp_path: Path) -> None:
    """The table, the search and the verdict, all on vLLM. A busy machine may miss the target, by a little."""
    report = compress(tmp_path / "out")
    assert report["latency"]["measured_ms"] < 1.2 * report["latency"]["target_ms"]
    assert report["machine"]["vllm"] == "0.32.0"
    assert (tmp_path / "out" / "vllm_plugin" / "pyproject.toml").is_file()
