"""Which engine `--engine auto` takes: by files, options and libraries first, then by a short measurement."""

from __future__ import annotations

import importlib.util
import json
import shutil
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lathe.artefact.manifest import write_manifest
from lathe.serving.launch.engine_times import ANSWER, PROMPT, Times, measured, times_of
from lathe.serving.launch.engines import auto
from lathe.serving.launch.registry import serve_with
from lathe.serving.options import ServeOptions


class PacedEngine:
    """Takes so long for a token of a prompt and for a step, by a clock of its own."""

    vocab_size, max_length, max_batch = 50, 256, 1

    def __init__(self, prompt: float, step: float) -> None:
        self.now, self.pace, self.step, self.lengths = 0.0, prompt, step, np.zeros(1, np.int64)
        self.slow = 5.0

    def clock(self) -> float:
        return self.now

    def reset(self, slot: int) -> None:
        self.lengths[slot] = 0

    def prefill(self, slot: int, tokens: np.ndarray) -> None:
        self.lengths[slot] += len(tokens)
        self.now += self.pace * len(tokens) * self.slow
        self.slow = 1.0

    def decode(self, tokens: np.ndarray) -> None:
        assert self.lengths[0] < self.max_length
        self.lengths[0] += 1
        self.now += self.step


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATHE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def both(artefact_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    out = Path(shutil.copytree(artefact_dir, tmp_path / "out"))
    (out / "model.gguf").write_bytes(b"GGUF")
    write_manifest(out)
    with_llama_cpp(monkeypatch, True)
    return out


def with_llama_cpp(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    real = importlib.util.find_spec
    found = {"llama_cpp": object() if there else None}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: found[name] if name in found else real(name)
    )


def chosen(model: Path, **options: Any) -> str:
    return auto.choose_engine(model, ServeOptions(out=model, **options))[0]


def test_files_libraries_and_options_decide_first(
    both: Path, artefact_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "any.gguf"
    file.write_bytes(b"GGUF")
    assert chosen(artefact_dir) == "onnx"
    assert chosen(file) == "llamacpp"
    assert chosen(both, prefix_cache=128) == "onnx"
    assert chosen(both, device="cuda") == "onnx"
    assert chosen(both, flash_attention=True) == "llamacpp"
    assert chosen(both, draft=tmp_path) == "vllm"
    assert chosen(tmp_path / "absent") == "onnx"
    with_llama_cpp(monkeypatch, False)
    assert chosen(both) == "onnx"
    assert chosen(file) == "onnx"


@pytest.mark.parametrize(("metric", "winner"), [("tpot", "llamacpp"), ("ttft", "onnx"), ("e2e", "llamacpp")])
def test_the_faster_for_the_target_is_taken_and_told(
    both: Path, metric: str, winner: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    report = {"latency": {"target_ms": 5, "metric": metric}}
    (both / "report.json").write_text(json.dumps(report))
    write_manifest(both)
    times = {"onnx": Times(0.1, 0.02), "llamacpp": Times(0.2, 0.01)}
    monkeypatch.setattr(auto, "times_of", lambda *_: (times, True))
    monkeypatch.setattr(auto, "open_served_gguf", lambda _: None)
    served: list[Path] = []
    monkeypatch.setattr(auto.engines, "get", lambda name: lambda model, _: served.append(Path(name)))
    auto.serve_auto(both, ServeOptions(out=both))
    assert served == [Path(winner)]
    assert caplog.messages[0].startswith(f"--engine auto: {winner}, the fastest here for ")
    assert caplog.messages[0].endswith("; measured now)")


def test_it_is_an_engine_like_any_other(artefact_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ready: list[str] = []

    def announce(_url: str, name: str) -> None:
        ready.append(name)
        raise KeyboardInterrupt

    with pytest.raises(BaseException):  # noqa: B017, PT011  ends the server as soon as it is ready
        serve_with("auto", artefact_dir, ServeOptions(out=artefact_dir, port=0, announce=announce))
    assert ready


def test_times_are_the_shortest_and_of_the_work() -> None:
    engine = PacedEngine(0.001, 0.01)
    times = measured(engine, engine.clock)  # type: ignore[arg-type]
    assert times.prompt == pytest.approx(0.001 * PROMPT)
    assert times.step == pytest.approx(0.01)
    assert times.of("tpot") == times.step
    assert times.of("ttft") == times.prompt
    assert times.of("e2e") == pytest.approx(0.128 + 0.01 * (ANSWER - 1))


def test_they_are_kept_for_the_model_and_the_threads() -> None:
    loads = {"onnx": 0, "llamacpp": 0}
    ticks = accumulate([0.1] * 10_000)

    def opener(name: str) -> Any:
        def load() -> PacedEngine:
            loads[name] += 1
            return PacedEngine(0.0, 0.0)

        return load

    engines = {name: opener(name) for name in loads}
    asked = [("m", 1), ("m", 1), ("m", 2), ("n", 1)]
    fresh = [times_of(engines, model, threads, lambda: next(ticks))[1] for model, threads in asked]
    assert fresh == [True, False, True, True]
    assert loads == {"onnx": 3, "llamacpp": 3}
