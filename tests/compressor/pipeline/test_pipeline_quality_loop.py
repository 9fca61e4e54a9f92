"""`--max-perplexity-increase`: as fast as the quality allows; `--target-throughput`: a latency target."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lathe.artefact.errors import UserError
from lathe.artefact.plan import LayerShape, Plan
from lathe.compressor.compute.progress import Progress
from lathe.compressor.latency.backend import backends
from lathe.compressor.latency.measure import LatencyBenchmark
from lathe.compressor.latency.workload import Workload
from lathe.compressor.pipeline import served_model, verify
from lathe.compressor.pipeline.latency_loop import Iteration
from lathe.compressor.pipeline.memory_estimate import MemoryPlan
from lathe.compressor.pipeline.preflight_result import PreflightResult
from lathe.compressor.pipeline.quality_loop import QualityLoop
from lathe.compressor.search.method import methods
from lathe.compressor.search.space import make_space
from support import steady_clock
from support.compress_command import Tiny
from support.tiny_problem import Lab

pytestmark = pytest.mark.usefixtures("steady")


def looking(lab: Lab, increase: float, share: float) -> tuple[QualityLoop, list[Iteration]]:
    """A loop whose artefacts lose `share` of the sum of sensitivities."""
    source, space = lab.source, make_space(lab.source.shape)
    benchmark = LatencyBenchmark(source, backends.get("onnx"), Workload(context=64), 1, Progress(quiet=True))
    preflight = PreflightResult(
        source, space, methods.get("lathe"), benchmark, [], memory=MemoryPlan({}, 0, 0)
    )
    sensitivities = np.empty(2 * space.layers, dtype=object)
    for block, (_, kind) in enumerate(space.blocks):
        sensitivities[block] = np.linspace(0, 1, len(space.levels(kind))) ** 2 * (1 + block)
    made: list[Iteration] = []

    def evaluate(plan: Plan) -> Iteration:
        return Iteration(plan, [], 0.0, 0)

    def make(chosen: Iteration) -> float:
        made.append(chosen)
        levels = space.indices(chosen.plan)
        return share * float(sum(sensitivities[b][i] for b, i in enumerate(levels)))

    loop = QualityLoop(
        preflight, None, sensitivities, math.log1p(increase), evaluate, make, Progress(quiet=True)
    )
    return loop, made


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_quality_is_spent_but_not_passed(lab: Lab, share: float) -> None:
    loop, made = looking(lab, 1.0, share)
    chosen = loop.run()
    spent = {json.dumps(r["plan"]): r["loss_increase"] for r in loop.rounds}
    loss = spent[json.dumps(chosen.plan.to_json()["layers"])]
    assert 0.7 * math.log(2) <= loss <= math.log(2)
    assert len(made) == len(loop.rounds) <= 4


def test_a_quality_that_nothing_keeps_is_said(lab: Lab) -> None:
    loop, _ = looking(lab, 0.5, 1.0)
    loop.loss_increase = lambda _: 2.0
    with pytest.raises(UserError, match="no subnet kept a perplexity within"):
        loop.run()


def test_the_artefact_keeps_the_quality_and_is_faster(tiny: Tiny, tmp_path: Path) -> None:
    options = ("--max-perplexity-increase", "30%", "--evaluation", str(tiny.text), "--json")
    done = tiny.compress(tmp_path / "out", *options)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["perplexity"]["subnet"] <= 1.3 * report["perplexity"]["dense"]
    assert report["latency"]["measured_ms"] < report["latency"]["dense_ms"]
    assert report["max_perplexity_increase"]["asked"] == 0.3
    assert 1 <= len(report["max_perplexity_increase"]["rounds"]) <= 4


def test_the_dense_model_is_scored_once_for_all_rounds(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Path] = []

    def watched(load: Callable[[Path], Any]) -> Callable[[Path], Any]:
        def loading(path: Path) -> Any:
            loaded.append(path)
            return load(path)

        return loading

    for module, name in ((served_model, "load_model"), (verify, "load_dense")):
        monkeypatch.setattr(module, name, watched(getattr(module, name)))
    options = ("--max-perplexity-increase", "30%", "--evaluation", str(tiny.text), "--json")
    done = tiny.compress(tmp_path / "out", *options)
    assert done.exit_code == 0, done.output
    assert len(loaded) >= 3
    assert loaded.count(tiny.model) == 1
    assert all(row["dense"] and row["subnet"] for row in json.loads(done.stdout)["samples"]["rows"])


def test_a_throughput_is_a_latency_of_the_batch(tiny: Tiny, tmp_path: Path) -> None:
    dense = Plan((LayerShape(4, 2, 96),) * 2)
    rate = 4 * 1.3e3 / steady_clock.milliseconds(dense)
    options = ("--target-throughput", f"{rate:.1f}tok/s", "--batch-size", "4")
    preflight = json.loads(tiny.compress(tmp_path / "out", *options, "--dry-run", "--json").stdout)
    assert preflight["latency"]["target_ms"] == pytest.approx(4e3 / rate, rel=1e-3)
    refused = tiny.compress(tmp_path / "out", *options, "--latency-metric", "ttft")
    assert refused.exit_code == 1
    assert "--target-throughput is a target of tpot" in refused.stderr


@pytest.mark.parametrize("other", [("--target-speedup", "2x"), ("--front",), ("--plan", "p.json")])
def test_a_quality_excludes_what_says_the_latency(tiny: Tiny, tmp_path: Path, other: tuple[str, ...]) -> None:
    done = tiny.compress(tmp_path / "out", "--max-perplexity-increase", "5%", *other)
    assert done.exit_code == 1
    assert done.stderr.startswith("error: --")
