"""`lathe serve --prompts`: what is taken, when, and what is said. A second runner stands in for OpenVINO."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lathe.artefact.errors import UserError
from lathe.artefact.onnx.runner import OnnxRunner
from lathe.compressor.export.onnx import export_onnx
from lathe.compressor.export.onnx.blockwise import Blockwise
from lathe.serving.decoding.tokenizer import Tokenizer
from lathe.serving.launch import prompts
from lathe.serving.launch.engines import auto
from lathe.serving.launch.engines.onnx import open_onnx
from lathe.serving.launch.reading_times import PIECE, faster_from, kept_times
from lathe.serving.metrics.registry import Metrics
from lathe.serving.options import ServeOptions
from lathe.serving.served_model import open_served_model
from support.other_reader import OtherReader
from support.tiny_llama import PLANS, checkpoint, pruned


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATHE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("plain")
    export_onnx(directory, pruned(checkpoint(directory / "dense"), PLANS["mixed"]))
    return directory / "onnx" / "model.onnx"


class Machine:
    """Where OpenVINO is installed, and needs so much of the time of ONNX Runtime."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pace, self.bias, self.reading = 0.5, 0.0, False
        self.now = 0.0
        self.opened: list[bool] = []
        monkeypatch.setattr(prompts, "OpenVinoReader", self.open)
        monkeypatch.setattr(prompts, "computes_bfloat16", lambda: True)
        monkeypatch.setattr(prompts, "openvino", lambda: None)
        monkeypatch.setattr(prompts, "free_bytes", lambda: 2**40)
        monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
        monkeypatch.setattr(prompts, "_read_some", self._timed(prompts._read_some))

    def open(self, graph: Path, positions: int, threads: int | None, *, half: bool) -> OtherReader:
        self.opened.append(half)
        return OtherReader(graph, positions, self.bias)

    def clock(self) -> float:
        return self.now

    def _timed(self, read: Any) -> Any:
        def timed(runner: Any, reader: Any, count: int) -> np.ndarray:
            self.now += count * (self.pace if reader else 1.0)
            return read(runner, reader, count)

        return timed


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def read(machine: Machine, graph: Path, asked: Any, **options: Any) -> tuple[str, OnnxRunner]:
    runner = OnnxRunner(graph, max_batch=1, max_length=128, threads=1)
    given = ServeOptions(out=graph, prompts=asked, threads=1, **options)
    return prompts.read_prompts(runner, graph, "digest", given, machine.clock), runner


def test_auto_takes_what_is_faster_and_says_so_and_remembers(
    machine: Machine, graph: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name, runner = read(machine, graph, "auto")
    assert (name, machine.opened) == ("openvino", [False])
    assert isinstance(runner.prompt_reader, OtherReader)
    assert runner.lengths[0] == 0
    before = machine.now
    assert read(machine, graph, "auto")[0] == "openvino"
    assert machine.now - before == PIECE * 1.5  # the comparison of logits alone
    measured, kept = caplog.messages
    assert measured.startswith("prompts: openvino, of ")
    assert measured.endswith("(128 tokens: onnxruntime 1.28e+05 ms, openvino 6.4e+04 ms; measured now)")
    assert kept == measured.replace("measured now", "as measured before")


def test_auto_leaves_prompts_where_they_are_without_a_lead(machine: Machine, graph: Path) -> None:
    machine.pace = 0.97
    name, runner = read(machine, graph, "auto")
    assert (name, runner.prompt_reader) == ("onnxruntime", None)
    assert read(machine, graph, "openvino")[0] == "openvino"


def test_bfloat16_is_for_rounded_weights_or_asked_for(machine: Machine, graph: Path, tmp_path: Path) -> None:
    rounded = pruned(checkpoint(tmp_path / "dense"), PLANS["mixed"])
    export_onnx(tmp_path, rounded, lambda *given: Blockwise(*given, bits=8))
    assert read(machine, tmp_path / "onnx" / "model.onnx", "auto")[0] == "openvino-bf16"
    assert read(machine, graph, "openvino-bf16")[0] == "openvino-bf16"
    assert machine.opened == [True, True]


def test_other_logits_are_refused(machine: Machine, graph: Path, caplog: pytest.LogCaptureFixture) -> None:
    machine.bias = 0.5
    with pytest.raises(UserError, match=r"logits of .* of their spread from ONNX Runtime's. Give --prompts"):
        read(machine, graph, "openvino")
    assert read(machine, graph, "auto")[0] == "onnxruntime"
    assert "of their spread" in caplog.text


@pytest.mark.parametrize(
    ("changes", "options", "reason"),
    [
        ({"free_bytes": lambda: 2**20}, {}, "a second copy of the weights may take 256 MiB, and 1 MiB"),
        ({}, {"device": "cuda"}, "is for the CPU"),
    ],
)
def test_what_cannot_be_had_is_told_before_anything_is_compiled(
    machine: Machine,
    graph: Path,
    changes: dict[str, Any],
    options: dict[str, Any],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in changes.items():
        monkeypatch.setattr(prompts, name, value)
    with pytest.raises(UserError, match=reason):
        read(machine, graph, "openvino", **options)
    assert read(machine, graph, "auto", **options)[0] == "onnxruntime"
    assert not machine.opened


@pytest.mark.skipif(importlib.util.find_spec("openvino") is not None, reason="OpenVINO is installed")
def test_openvino_is_an_extra(graph: Path) -> None:
    runner = OnnxRunner(graph, max_batch=1, max_length=16, threads=1)
    with pytest.raises(
        UserError, match=r"OpenVINO is not installed. Install it: pip install 'lathe\[openvino\]'"
    ):
        prompts.read_prompts(runner, graph, "digest", ServeOptions(out=graph, prompts="openvino"))
    assert prompts.read_prompts(runner, graph, "digest", ServeOptions(out=graph)) == "onnxruntime"
    assert (
        prompts.read_prompts(runner, graph, "digest", ServeOptions(out=graph, prompts="auto"))
        == "onnxruntime"
    )


def test_pieces_from_which_on_it_is_faster() -> None:
    other = {8: 8.0, 32: 32.0, 64: 64.0, 96: 96.0, 128: 128.0}
    assert faster_from({n: 0.5 * max(n, 32) for n in other}, other) == 16
    assert faster_from(dict.fromkeys(other, 0.0), other) == 1
    assert faster_from({n: 2.0 * n for n in other}, other) == 128


class Slow:
    """An engine whose turns take what is given, by a clock that it moves."""

    now = 0.0

    def __init__(self, *seconds: float) -> None:
        self.turns = iter(seconds)

    def read(self, _count: int) -> None:
        Slow.now += next(self.turns)


def test_times_are_the_shortest_but_for_the_first() -> None:
    engines = {"a": Slow(0, 0.3, 0.2, 0.4, 0.3).read, "b": Slow(0, 0.1, 0.1, 0.05, 0.2).read}
    found, new = kept_times(engines, [8], "m", 1, lambda: Slow.now)
    assert (found, new) == ({"a": {8: pytest.approx(0.2)}, "b": {8: pytest.approx(0.05)}}, True)
    assert kept_times(engines, [8], "m", 1, lambda: 0.0) == (found, False)


def test_two_turns_of_a_large_model_are_enough() -> None:
    engines = {"a": Slow(9, 3).read, "b": Slow(9, 2).read}
    assert kept_times(engines, [8], "m", 1, lambda: Slow.now)[0] == {"a": {8: 3}, "b": {8: 2}}


def test_it_is_in_the_metrics(machine: Machine, artefact_dir: Path) -> None:
    artefact, metrics = open_served_model(artefact_dir), Metrics("m", None)
    options = ServeOptions(out=artefact_dir, prompts="openvino", threads=1, max_batch=2)
    backend = open_onnx(artefact, Tokenizer(artefact.path), options, metrics)
    metrics.watch(backend, artefact, "onnx")
    assert 'prompts="openvino"' in metrics.exposition.render().decode()
    assert machine.opened == [False]


def test_the_auto_engine_measures_prompts_too(artefact_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[ServeOptions] = []
    monkeypatch.setattr(auto.engines, "get", lambda _: lambda _model, options: given.append(options))
    auto.serve_auto(artefact_dir, ServeOptions(out=artefact_dir))
    auto.serve_auto(artefact_dir, ServeOptions(out=artefact_dir, prompts="onnxruntime"))
    assert [options.prompts for options in given] == ["auto", "onnxruntime"]
