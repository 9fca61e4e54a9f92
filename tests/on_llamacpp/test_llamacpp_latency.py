"""The latency backend: what a step is, and the command that measures with it and exports what it measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

pytest.importorskip("llama_cpp")

from test_llamacpp_serve import served

from lathe.artefact.llamacpp.runner import LlamaCppRunner
from lathe.compressor.latency.backend import backends
from lathe.compressor.latency.workload import Workload
from support.tiny_llama import LAYERS, PLANS, checkpoint

DEMO = Path(__file__).parents[2] / "demo"
CONTEXT = 100


@pytest.fixture
def built(tmp_path: Path) -> Path:
    backends.get("llamacpp").build(tmp_path, checkpoint(tmp_path / "source"), PLANS["groups"], LAYERS)
    return tmp_path


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[int]]]:
    """The tokens of each slot before every call of the runner, with the name of the call."""
    found: list[tuple[str, list[int]]] = []
    for name in ("prefill", "decode"):
        real = getattr(LlamaCppRunner, name)

        def noted(runner: Any, *args: Any, name: str = name, real: Any = real) -> np.ndarray:
            found.append((name, runner.lengths.tolist()))
            result: np.ndarray = real(runner, *args)
            assert np.isfinite(result).all()
            return result

        monkeypatch.setattr(LlamaCppRunner, name, noted)
    return found


def test_every_decode_step_is_at_the_context(built: Path, calls: list[tuple[str, list[int]]]) -> None:
    step = backends.get("llamacpp").prepare(built, Workload("tpot", 3, CONTEXT), 1)
    assert calls == [("prefill", [0, 0, 0])], "prepared by one prompt"
    for _ in range(5):
        step()
    assert calls[1:] == [("decode", [CONTEXT] * 3)] * 5


def test_a_model_with_the_same_caches_needs_no_prompt(
    tmp_path: Path, calls: list[tuple[str, list[int]]]
) -> None:
    source, backend, work = (
        checkpoint(tmp_path / "source"),
        backends.get("llamacpp-q8_0"),
        Workload("tpot", 2, 90),
    )
    for name, plan in (("groups", "groups"), ("again", "groups"), ("dense", "dense")):
        (tmp_path / name).mkdir()
        backend.build(tmp_path / name, source, PLANS[plan], LAYERS)
        backend.prepare(tmp_path / name, work, 1)()
    prompt, step = ("prefill", [0, 0]), ("decode", [90, 90])
    assert calls == [prompt, step, step, prompt, step]


def test_every_prefill_is_of_one_empty_slot(built: Path, calls: list[tuple[str, list[int]]]) -> None:
    step = backends.get("llamacpp").prepare(built, Workload("ttft", 4, CONTEXT), 1)
    for _ in range(3):
        step()
    assert calls == [("prefill", [0])] * 3


@pytest.mark.parametrize("scheme", ["q4_k", "q8_0", "int4", "mixed", "bf16"])
def test_every_type_runs(tmp_path: Path, scheme: str, calls: list[tuple[str, list[int]]]) -> None:
    backend = backends.get(f"llamacpp-{scheme}")
    source = checkpoint(tmp_path / "source", hidden_size=256)
    backend.build(tmp_path, source, PLANS["mixed"].in_bits(4, 8), LAYERS)
    backend.prepare(tmp_path, Workload("tpot", 2, CONTEXT), 1)()
    assert calls == [("prefill", [0, 0]), ("decode", [CONTEXT] * 2)]


def test_figures_are_of_this_build() -> None:
    versions = backends.get("llamacpp").versions()
    assert versions["llama-cpp-python"] >= "0.3.36"
    assert "CPU" in versions["llama.cpp"]


@pytest.mark.slow
def test_a_target_is_met_on_llama_cpp_and_served(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "lathe", "compress", str(DEMO / "model"), "-o", str(out)]
    command += ["--target-speedup", "1.3x", "--backend", "llamacpp", "--export", "gguf", "--threads", "1"]
    command += ["--calibration", str(DEMO / "heldout.txt"), "--calibration-tokens", "4096"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    latency = json.loads((out / "report.json").read_text())["latency"]
    assert (latency["backend"], latency["metric"]) == ("llamacpp", "tpot")
    assert latency["measured_ms"] <= latency["target_ms"] * (1 + latency["tolerance"])
    with served(out) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="x")
        answer = client.completions.create(model="out", prompt="Once upon a time", max_tokens=8)
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 8
