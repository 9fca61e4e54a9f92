"""What a measurement costs and reaches, on a machine of make-believe that is busy in every way."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lathe.artefact.plan import Plan
from lathe.compressor.latency.backend import backends
from lathe.compressor.latency.built_models import TimedModel
from lathe.compressor.latency.cache import cached_table
from lathe.compressor.latency.effort import TABLE, Effort
from lathe.compressor.latency.measure import LatencyBenchmark
from lathe.compressor.latency.workload import Workload
from lathe.compressor.model.checkpoint import Checkpoint
from lathe.compressor.search.space import make_space
from support.tiny_llama import PLANS, VOCAB, checkpoint
from support.virtual_machine import ROW_MS, Told, VirtualMachine, undisturbed_ms

WIDE = 30_000
GROUPS, MODELS = 6, 12


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return checkpoint(tmp_path_factory.mktemp("wide") / "model", vocab_size=WIDE, tie_word_embeddings=True)


def benchmark(source: Checkpoint, machine: VirtualMachine, **changes: Any) -> LatencyBenchmark:
    given = LatencyBenchmark(source, machine, Workload(context=24), 1, Told(), clock=machine.clock)
    return replace(given, **changes)


def test_no_more_than_three_models_are_loaded_and_one_has_the_whole_vocabulary(source: Checkpoint) -> None:
    machine = VirtualMachine()
    table = benchmark(source, machine).table(make_space(source.shape))
    assert len(machine.built) == len(set(machine.built)) == len(table.rows) == MODELS
    assert machine.most_alive == 3
    assert [rows for _, rows in machine.built].count(WIDE) == 1
    assert min(rows for _, rows in machine.built) == max(rows for _, rows in machine.built if rows < WIDE)
    for name in ("dense", "mixed", "whole layers"):
        assert table.predict(PLANS[name]) == pytest.approx(undisturbed_ms(PLANS[name], WIDE))
    assert table.head_ms == pytest.approx(WIDE * ROW_MS)
    assert table.dense_ms == pytest.approx(undisturbed_ms(PLANS["dense"], WIDE))


def test_a_machine_whose_speed_drifts_needs_no_more_loads_than_a_steady_one(source: Checkpoint) -> None:
    machine = VirtualMachine()
    machine.slowdown = lambda wall: 1.5 + math.sin(wall / 40) + wall / 100
    timer = benchmark(source, machine)
    table = timer.table(make_space(source.shape))
    loaded = TABLE.loads * (MODELS + GROUPS - 1)
    assert machine.loads == loaded
    dense = PLANS["dense"]
    for name in ("mixed", "groups", "whole layers"):
        plan = PLANS[name]
        expected = undisturbed_ms(plan, WIDE) / undisturbed_ms(dense, WIDE)
        assert table.predict(plan) / table.predict(dense) == pytest.approx(expected, rel=0.02)


def test_only_the_group_of_a_noisy_model_is_loaded_again(source: Checkpoint) -> None:
    machine, random_load = VirtualMachine(), random.Random(0)
    models = [TimedModel(PLANS[name]) for name in ("dense", "mixed", "ffn", "groups", "whole layers")]
    usual = TABLE.loads * 6
    machine.of_load = lambda number: random_load.uniform(0.9, 1.1) if number <= 3 * TABLE.loads else 1.0
    noisy = benchmark(source, machine)
    found = noisy.time(models, replace(TABLE, seconds=1e9), "measure: plans")
    loads = [len(comparison.subnet.repeats) for comparison in found]
    assert loads[0] == loads[1] > loads[2] == loads[3] == TABLE.loads
    assert machine.loads == usual + 3 * (loads[0] - TABLE.loads)


def test_noisy_loads_use_the_time_up_and_what_was_reached_is_said(source: Checkpoint, tmp_path: Path) -> None:
    machine, random_load = VirtualMachine(), random.Random(0)
    machine.of_load = lambda _: random_load.uniform(0.8, 1.25)
    timer = benchmark(source, machine, seconds=40.0)
    table = timer.table(make_space(source.shape))
    precision = table.precision
    assert precision is not None
    assert precision["seconds"] == pytest.approx(machine.clock.wall())
    assert 25 < precision["seconds"] <= 40
    errors = (precision["standard_error"], precision["largest_standard_error"])
    assert errors[0] is not None
    assert errors[1] is not None
    assert 0.01 < errors[0] < errors[1]
    assert isinstance(timer.progress, Told)
    before, *_, after = timer.progress.lines
    assert before == f"measure: latency table: {MODELS} models in {GROUPS} groups, at most about 40 s"
    assert after == (
        f"measure: latency table: ratios within {100 * errors[0]:.2g} % (standard error, "
        f"{100 * errors[1]:.2g} % at most) after {precision['seconds']:.0f} s; 1 % was wanted"
    )
    (warning,) = timer.progress.warnings
    assert warning.startswith("the machine was too busy: latency table has a standard error of")
    assert json.loads(json.dumps(table.to_json()))["precision"] == precision


def test_a_time_that_is_too_short_gives_two_loads_of_each_model_and_says_how_long_it_takes(
    source: Checkpoint,
) -> None:
    machine = VirtualMachine()
    machine.load_seconds = 5.0
    timer = benchmark(source, machine, seconds=1.0)
    timer.table(make_space(source.shape))
    assert machine.loads == 2 * (MODELS + GROUPS - 1)
    assert isinstance(timer.progress, Told)
    assert any("loading is slow, so about" in line for line in timer.progress.lines)


def test_a_busy_processor_ruins_nothing(source: Checkpoint) -> None:
    machine = VirtualMachine()
    machine.stolen = lambda wall: 0.45 + 0.3 * math.sin(11 * wall)
    table = benchmark(source, machine).table(make_space(source.shape))
    assert table.precision is not None
    assert table.precision["corrected"] >= TABLE.loads * GROUPS
    for name in ("dense", "mixed", "whole layers"):
        assert table.predict(PLANS[name]) == pytest.approx(undisturbed_ms(PLANS[name], WIDE))


def test_an_imprecise_table_is_used_and_not_kept(
    source: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATHE_CACHE", str(tmp_path))
    machine, random_load = VirtualMachine(), random.Random(0)
    machine.of_load = lambda _: random_load.uniform(0.7, 1.4)
    cached_table(benchmark(source, machine, seconds=10.0), make_space(source.shape), refresh=False)
    assert not list(tmp_path.rglob("*.json"))
    machine.of_load = lambda _: 1.0
    cached_table(benchmark(source, machine), make_space(source.shape), refresh=False)
    assert len(list(tmp_path.rglob("*.json"))) == 1


def test_proofs_of_one_loop_share_a_dense_model_that_is_built_once(source: Checkpoint) -> None:
    machine = VirtualMachine()
    timer = benchmark(source, machine)
    with timer.keep_dense():
        for name in ("mixed", "ffn", "groups"):
            comparison = timer.compare(PLANS[name])
            expected = undisturbed_ms(PLANS[name], WIDE) / undisturbed_ms(PLANS["dense"], WIDE)
            assert comparison.ratio == pytest.approx(expected)
    assert [plan for plan, _ in machine.built].count(source.shape.dense_plan) == 1
    timer.compare(PLANS["mixed"])
    assert [plan for plan, _ in machine.built].count(source.shape.dense_plan) == 2


def test_whole_requests_are_compared_as_precisely_as_was_wanted(source: Checkpoint) -> None:
    machine, random_load = VirtualMachine(), random.Random(0)
    machine.of_load = lambda _: random_load.uniform(0.97, 1.03)
    timer = benchmark(source, machine, workload=Workload("e2e", 1, 24, output_tokens=11))
    found = timer.compare(PLANS["mixed"], Effort(3, 100, 0.004, 1e9))
    dense, subnet = (
        undisturbed_ms(PLANS[name], WIDE, "ttft") + 10 * undisturbed_ms(PLANS[name], WIDE)
        for name in ("dense", "mixed")
    )
    assert found.paired.standard_error <= 0.004
    assert found.ratio == pytest.approx(subnet / dense, rel=0.02)
    assert machine.most_alive == 2


def test_few_rows_of_a_wide_vocabulary_are_real_models(
    source: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every model is built and run by ONNX Runtime; what it takes is then a matter of its rows and widths."""
    onnx = backends.get("onnx")
    prepare = type(onnx).prepare
    machine, seen = VirtualMachine(), []

    def watched(_: Any, directory: Path, workload: Workload, threads: int | None) -> Any:
        import onnx as format_of_onnx

        prepare(onnx, directory, workload, threads)()
        graph = format_of_onnx.load(directory / "model.onnx", load_external_data=False)
        rows = graph.graph.output[0].type.tensor_type.shape.dim[1].dim_value
        plan = next(entry.value for entry in graph.metadata_props if entry.key == "lathe.plan")
        seen.append(rows)
        milliseconds = undisturbed_ms(Plan.from_json(json.loads(plan)), rows)
        return lambda: machine.pass_time(milliseconds / 1e3)

    monkeypatch.setattr(type(onnx), "prepare", watched)
    table = benchmark(source, machine, backend=onnx).table(make_space(source.shape))
    assert set(seen) == {4096, WIDE}
    assert table.head_ms == pytest.approx(WIDE * ROW_MS)
    assert table.predict(PLANS["mixed"]) == pytest.approx(undisturbed_ms(PLANS["mixed"], WIDE))


def test_a_narrow_vocabulary_is_halved(tmp_path: Path) -> None:
    machine, narrow = VirtualMachine(), checkpoint(tmp_path / "narrow")
    benchmark(narrow, machine).table(make_space(narrow.shape))
    assert {rows for _, rows in machine.built} == {VOCAB // 2, VOCAB}
