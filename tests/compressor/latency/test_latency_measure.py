"""Timing: repeats alternate, drift cancels, requests are put together, tables are kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import DynamicCache

from lathe.compressor.compute.progress import Progress
from lathe.compressor.latency import bench, measure
from lathe.compressor.latency.backend import backends
from lathe.compressor.latency.bench import Timing, interleave, paired_ratio
from lathe.compressor.latency.cache import cached_comparison, cached_table
from lathe.compressor.latency.measure import Effort, LatencyBenchmark
from lathe.compressor.latency.workload import Workload
from lathe.compressor.search.space import make_space
from support import steady_clock
from support.tiny_llama import PLANS, checkpoint


def benchmark(path: Path, workload: Workload, **model: int) -> LatencyBenchmark:
    return LatencyBenchmark(
        checkpoint(path, **model), backends.get("onnx"), workload, 1, Progress(quiet=True)
    )


def hasten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "_REPEAT_SECONDS", 0.0)
    monkeypatch.setattr(bench, "_SETTLE_SECONDS", 0.0)


def test_a_drift_that_both_share_cancels() -> None:
    drift = [1.0, 1.1, 3.0, 5.0, 0.7]
    dense, subnet = Timing([10 * d for d in drift]), Timing([4 * d for d in drift])
    assert paired_ratio(subnet, dense) == pytest.approx(0.4)
    assert dense.median == pytest.approx(11)
    assert Timing([5.0] * 9).spread == 0 < dense.spread


def test_systems_take_turns_in_alternating_order(monkeypatch: pytest.MonkeyPatch) -> None:
    hasten(monkeypatch)
    calls: list[str] = []
    timings = interleave({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=4)
    order = [name for i, name in enumerate(calls) if i == 0 or calls[i - 1] != name]
    assert order == list("ababa")
    assert calls.count("a") == calls.count("b")
    assert [len(timings[name].repeats) for name in "ab"] == [4, 4]
    assert all(len(samples) >= 3 and min(samples) >= 0 for samples in timings["a"].samples)


@pytest.mark.parametrize("backend", ["onnx", "torch"])
@pytest.mark.parametrize("metric", ["tpot", "ttft"])
def test_real_models_are_built_and_run(
    tmp_path: Path, metric: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hasten(monkeypatch)
    timer = replace(benchmark(tmp_path, Workload(metric, 2, 24)), backend=backends.get(backend))
    comparison = timer.compare(PLANS["mixed"], Effort(2, 2, 1.0))
    assert len(comparison.dense.repeats) == len(comparison.subnet.repeats) == 6
    assert min(comparison.dense.repeats) > 0


@pytest.mark.usefixtures("steady")
def test_a_request_is_one_prefill_and_the_decode_steps_after_it(tmp_path: Path) -> None:
    comparison = benchmark(tmp_path, Workload("e2e", 1, 24, output_tokens=11)).compare(PLANS["mixed"])
    for timing, name in ((comparison.dense, "dense"), (comparison.subnet, "mixed")):
        prefill, step = (steady_clock.milliseconds(PLANS[name], m) for m in ("ttft", "tpot"))
        assert timing.median == pytest.approx(prefill + 10 * step)


@pytest.mark.usefixtures("steady")
def test_a_request_is_timed_though_one_of_its_parts_is_precise_sooner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = iter([1.0, 0.001, 1.0, 1.0, 0.001])  # those of the prefill, then of a decode step
    monkeypatch.setattr(measure, "uncertainty", lambda *_: next(errors))
    comparison = benchmark(tmp_path, Workload("e2e", 1, 24, output_tokens=11)).compare(
        PLANS["mixed"], Effort(1, 6, 0.01)
    )
    assert len(comparison.dense.repeats) == len(comparison.subnet.repeats) == 9
    prefill, step = (steady_clock.milliseconds(PLANS["mixed"], m) for m in ("ttft", "tpot"))
    assert comparison.subnet.median == pytest.approx(prefill + 10 * step)


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
    for damage in (b"", b"{}", b"[]", file.read_bytes()[:-20]):
        file.write_bytes(damage)
        assert cached_table(timer, space, refresh=False).terms == first.terms
        json.loads(file.read_text())


@pytest.mark.usefixtures("steady")
def test_a_comparison_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATHE_CACHE", str(tmp_path / "cache"))
    timer = benchmark(tmp_path / "model", Workload("tpot", 1, 24))
    first = cached_comparison(timer, PLANS["mixed"], refresh=False)
    dense, subnet = (steady_clock.milliseconds(PLANS[name]) for name in ("dense", "mixed"))
    assert first == {"dense_ms": dense, "subnet_ms": subnet, "ratio": subnet / dense, "spread": 0.0}
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
    with timer.models([PLANS["mixed"]]) as (directory,):
        step = timer.backend.prepare(directory, timer.workload, 1)
        for _ in range(4):
            step()
    assert lengths == [25] * 4
