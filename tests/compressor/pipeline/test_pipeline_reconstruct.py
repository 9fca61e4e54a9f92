"""The final reconstruction: rounds over the whole subnet, each on text of its own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lathe.compressor.compute.progress import Progress
from lathe.compressor.pipeline import finalists
from lathe.compressor.pipeline import reconstruct as stage
from lathe.compressor.pipeline.calibrate import calibrate
from lathe.compressor.pipeline.finalists import choose
from lathe.compressor.pipeline.latency_loop import Iteration, LatencyLoop
from lathe.compressor.pipeline.options import CompressOptions
from lathe.compressor.pipeline.preflight import run_preflight
from lathe.compressor.pipeline.run_context import RunContext
from lathe.compressor.pipeline.run_directory import RunDirectory
from lathe.compressor.pipeline.search import Searcher
from lathe.compressor.reconstruction.kl_passes import KLProblem
from support.compress_command import Tiny


def options_for(tiny: Tiny, folder: Path, method: str = "auto") -> CompressOptions:
    return CompressOptions(
        model=str(tiny.model),
        out=folder / "out",
        keep=0.6,
        context=1,
        export=("checkpoint",),
        calibration=str(tiny.text),
        calibration_tokens=2048,
        method=method,
    )


def opened(options: CompressOptions) -> tuple[RunContext, RunDirectory]:
    quiet, run = Progress(quiet=True), RunDirectory(options.out)
    return RunContext(options, run_preflight(options, quiet), run, quiet), run


def test_every_round_after_the_first_reads_new_text_and_what_gains_is_kept(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, run = opened(options_for(tiny, tmp_path))
    calibration = calibrate(context)
    iteration = LatencyLoop(context, Searcher(context, calibration), "").find_plan()
    seen, refine = [], stage.refine_model

    def watched(text: KLProblem, *args: Any) -> object:
        seen.append((text.windows, text.heldout))
        return refine(text, *args)

    monkeypatch.setattr(stage, "refine_model", watched)
    monkeypatch.setattr(stage, "WORTHWHILE", 2.0)
    name = stage.reconstruct(context, calibration, iteration)
    first, base = len(seen), name.partition("-")[0]
    file = run.path / f"reformed-{base}-0-000.safetensors"
    whole, stale = file.read_bytes(), (run.path / f"reformed-{base}-000.safetensors").read_bytes()
    file.write_bytes(stale)
    (run.path / f"whole-{base}-0.json").unlink()
    assert stage.reconstruct(context, calibration, iteration) == name
    assert whole == file.read_bytes() != stale, "of a step that did not end nothing stays"
    del seen[first:]
    run.close()

    texts, masks = zip(*seen, strict=True)
    assert len(texts) == 3
    assert all(mask.equal(calibration.heldout) for mask in masks)
    assert texts[0].equal(calibration.windows)
    for other in (0, 1):
        same = (texts[2] == texts[other]).all(1)
        assert same.equal(calibration.heldout)
    expected = base
    for number in range(3):
        round_ = json.loads((run.path / f"whole-{expected}-{number}.json").read_text())
        expected += f"-{number}" if round_["after"] < round_["before"] else ""
    assert name == expected != base


def test_of_two_plans_the_one_with_less_divergence_after_reconstruction_is_chosen(
    tiny: Tiny, tmp_path: Path
) -> None:
    context, run = opened(options_for(tiny, tmp_path, "fast"))
    calibration = calibrate(context)
    search = Searcher(context, calibration)
    space = context.preflight.space
    wide, narrow = (search.evaluate(plan) for plan in (space.plan([1] * (2 * space.layers)), space.smallest))
    for results, best in (((narrow, wide), 1), ((wide, narrow), 0)):
        assert choose(context, calibration, results) == best
    kept = Iteration(wide.plan, wide.selections, 0.0, 0)
    name = stage.reconstruct_layers(context, calibration, kept)
    files = {file.name.rpartition("-")[0] for file in run.path.glob("reformed-*.safetensors")}
    assert files == {f"reformed-{name}"}, "only the layers of the better one stay"
    divergence = stage.heldout_divergence(context, calibration, name)
    stage.reconstruct(context, calibration, kept)
    refined = json.loads((run.path / f"whole-{name}-0.json").read_text())
    assert divergence == pytest.approx(refined["before"], rel=1e-4)
    run.close()


@pytest.mark.parametrize(("share", "best"), [(0.9, 1), (-0.9, 1), (1.1, 0)])
def test_of_two_plans_that_held_out_text_cannot_tell_apart_the_later_one_is_chosen(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, best: int
) -> None:
    context, run = opened(options_for(tiny, tmp_path, "fast"))
    calibration = calibrate(context)
    search, space = Searcher(context, calibration), context.preflight.space
    results = [search.evaluate(plan) for plan in (space.plan([1] * (2 * space.layers)), space.smallest)]
    noise = 4 / calibration.windows[calibration.heldout].numel() ** 0.5
    values = iter([1.0, 1 + share * noise])
    monkeypatch.setattr(finalists, "heldout_divergence", lambda *_: next(values))
    assert choose(context, calibration, results) == best
    run.close()


def test_layers_that_one_method_solved_on_a_part_of_the_text_are_not_anothers(
    tiny: Tiny, tmp_path: Path
) -> None:
    context, run = opened(options_for(tiny, tmp_path, "quick"))
    calibration = calibrate(context)
    iteration = LatencyLoop(context, Searcher(context, calibration), "").find_plan()
    quick = stage.reconstruct(context, calibration, iteration)
    method = replace(context.preflight.method, on_samples=False)
    whole = replace(context, preflight=replace(context.preflight, method=method))
    assert stage.reconstruct(whole, calibration, iteration) != quick
    assert stage.reconstruct(context, calibration, iteration) == quick
    run.close()
