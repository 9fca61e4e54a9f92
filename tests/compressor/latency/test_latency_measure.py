"""Timing on engines: real models are built and run, requests are put together, tables are kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from transformers import DynamicCache

from lathe.compressor.compute.progress import Progress
from lathe.compressor.export import exporters
from lathe.compressor.latency import bench
from lathe.compressor.latency.backend import backends
from lathe.compressor.latency.built_models import TimedModel
from lathe.compressor.latency.cache import cached_comparison, cached_table
from lathe.compressor.latency.effort import Effort
from lathe.compressor.latency.measure import LatencyBenchmark
from lathe.compressor.latency.workload import Workload
from lathe.compressor.search.space import make_space
from support import steady_clock
from support.tiny_families import rounded_blocks
from support.tiny_llama import PLANS, checkpoint, pruned


def benchmark(path: Path, workload: Workload, **model: int) -> LatencyBenchmark:
    return LatencyBenchmark(
        checkpoint(path, **model), backends.get("onnx"), workload, 1, Progress(quiet=True)
    )


def hasten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "_REPEAT_SECONDS", 0.0)
    monkeypatch.setattr(bench, "_SETTLE_SECONDS", 0.0)


@pytest.mark.parametrize("backend", ["onnx", "torch"])
@pytest.mark.parametrize("metric", ["tpot", "ttft"])
def test_real_models_are_built_and_run(
    tmp_path: Path, metric: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hasten(monkeypatch)
    timer = replace(benchmark(tmp_path, Workload(metric, 2, 24)), backend=backends.get(backend))
    comparison = timer.compare(PLANS["mixed"], Effort(2, 2, 1.0, 60.0))
    assert len(comparison.dense.repeats) == len(comparison.subnet.repeats) == 2
    assert min(comparison.dense.repeats) > 0


def operators(graph: Path) -> list[tuple[str, str]]:
    return [(n.op_type, n.name) for n in onnx.load(graph, load_external_data=False).graph.node]


def test_models_of_mixed_formats_do_the_work_of_real_ones(tmp_path: Path) -> None:
    backend, plan = backends.get("onnx-mixed"), rounded_blocks(PLANS["groups"])
    timer = replace(benchmark(tmp_path / "m", Workload("tpot", 2, 24)), backend=backend)
    with timer.models([TimedModel(plan), TimedModel(plan.unrounded)]) as built:
        for directory, layers in zip(built, (plan, plan.unrounded), strict=True):
            backend.prepare(directory, timer.workload, 1)()
            real = tmp_path / directory.name
            exporters.get(backend.export).write(real, pruned(timer.source, layers))
            found = operators(directory / "model.onnx")
            assert found == operators(real / "onnx" / "model.onnx")
            assert any(name == "MatMulNBits" for name, _ in found) == layers.rounded


@pytest.mark.usefixtures("steady")
def test_a_request_is_one_prefill_and_the_decode_steps_after_it(tmp_path: Path) -> None:
    comparison = benchmark(tmp_path, Workload("e2e", 1, 24, output_tokens=11)).compare(PLANS["mixed"])
    for timing, name in ((comparison.dense, "dense"), (comparison.subnet, "mixed")):
        prefill, step = (steady_clock.milliseconds(PLANS[name], m) for m in ("ttft", "tpot"))
        assert timing.median == pytest.approx(prefill + 10 * step)


@pytest.mark.usefixtures("steady")
def test_a_measured_table_predicts_models_that_it_never_saw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATHE_CACHE", str(tmp_path / "cache"))
    timer = benchmark(tmp_path / "model", Workload("tpot", 1, 24))
    space = make_space(timer.source.shape)
    table = cached_table(timer, space, refresh=False)
    for name in ("dense", "mixed", "whole layers", "heads per group"):
        assert table.predict(PLANS[name]) == pytest.approx(steady_clock.milliseconds(PLANS[name]))
    assert table.dense_ms == pytest.approx(steady_clock.milliseconds(PLANS["dense"]))

    monkeypatch.setattr(LatencyBenchmark, "table", lambda *_: pytest.fail("measured again"))
    assert cached_table(timer, space, refresh=False) == table
    other = benchmark(tmp_path / "model", Workload("tpot", 1, 25))
    for again in ((timer, True), (other, False)):
        with pytest.raises(pytest.fail.Exception):
            cached_table(again[0], space, again[1])


@pytest.mark.usefixtures("steady")
def test_a_damaged_cache_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATHE_CACHE", str(tmp_path / "cache"))
    timer = benchmark(tmp_path / "model", Workload("tpot", 1, 24))
    space = make_space(timer.source.shape)
    first = cached_table(timer, space, refresh=False)
    (file,) = (tmp_path / "cache").rglob("*.json")
    earlier = file.read_bytes().replace(b"lathe-latency/3", b"lathe-latency/2")
    for damage in (b"", b"{}", b"[]", file.read_bytes()[:-20], earlier):
        file.write_bytes(damage)
        assert cached_table(timer, space, refresh=False).terms == first.terms
        json.loads(file.read_text())


@pytest.mark.usefixtures("steady")
def test_a_comparison_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATHE_CACHE", str(tmp_path / "cache"))
    timer = benchmark(tmp_path / "model", Workload("tpot", 1, 24))
    first = cached_comparison(timer, PLANS["mixed"], refresh=False)
    dense, subnet = (steady_clock.milliseconds(PLANS[name]) for name in ("dense", "mixed"))
    assert first == {
        "dense_ms": dense,
        "subnet_ms": subnet,
        "ratio": pytest.approx(subnet / dense),
        "standard_error": pytest.approx(0, abs=1e-9),
    }
    monkeypatch.setattr(LatencyBenchmark, "compare", lambda *_: pytest.fail("measured again"))
    assert cached_comparison(timer, PLANS["mixed"], refresh=False) == first


def test_a_torch_step_reads_a_cache_of_the_context_every_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timer = replace(benchmark(tmp_path / "m", Workload("tpot", 3, 24)), backend=backends.get("torch"))
    lengths: list[int] = []
    crop = DynamicCache.crop

    def watched(cache: DynamicCache, length: int) -> None:
        lengths.append(cache.get_seq_length())
        crop(cache, length)

    monkeypatch.setattr(DynamicCache, "crop", watched)
    with timer.models([TimedModel(PLANS["mixed"])]) as (directory,):
        step = timer.backend.prepare(directory, timer.workload, 1)
        for _ in range(4):
            step()
    assert lengths == [25] * 4
