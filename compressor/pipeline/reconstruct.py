"""From a plan to the finished tensors of every layer, kept in the run directory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from lathe.artefact.errors import UserError
from lathe.compressor.calibration.selfgen import continue_text
from lathe.compressor.compute.array_store import ArrayStore
from lathe.compressor.compute.progress import Progress
from lathe.compressor.model.block_runner import Weights
from lathe.compressor.pipeline.calibrate import CalibrationResult
from lathe.compressor.pipeline.latency_loop import Iteration
from lathe.compressor.pipeline.preflight import PreflightResult
from lathe.compressor.pipeline.run_directory import RunDirectory, Saved, key
from lathe.compressor.reconstruction.passes import KLProblem
from lathe.compressor.reconstruction.variants import Finished, ReconstructionTask, reconstructions
from lathe.compressor.reconstruction.whole import ITERATIONS, WORTHWHILE, refine_model


def reform(
    card: PreflightResult,
    prepared: CalibrationResult,
    chosen: Iteration,
    run: RunDirectory,
    progress: Progress,
) -> str:
    """Finish every layer's tensors in the run directory; returns the name they are under."""
    name = key(
        prepared.key,
        card.method.reconstruction,
        [s.shape for s in chosen.selections],
        [[t.tolist() for t in (s.kv_heads, s.query_heads, s.channels)] for s in chosen.selections],
    )
    job = ReconstructionTask(
        card.source.family,
        card.source.shape,
        prepared.model,
        chosen.selections,
        prepared.statistics,
        prepared.dampings,
        prepared.windows,
        prepared.heldout,
        prepared.store,
        prepared.workers,
    )
    layer = reconstructions.get(card.method.reconstruction)(job)
    count = len(chosen.selections)
    with progress.stage("reform: layers", count) as bar:
        for index in range(count):
            run.saved(
                f"reformed-{name}-{index:03d}",
                partial(layer, index, FinishedLayers(run.path.absolute(), name, prepared.store)),
            )
            bar.advance()
    if chosen.plan == card.source.shape.dense_plan:
        return name
    for number in range(card.method.whole_rounds):
        refined = f"{name}-{number}"
        gained = run.json(
            f"whole-{refined}", partial(_refine, card, prepared, run, progress, number, name, refined)
        )
        if gained["after"] < gained["before"]:
            name = refined
        if gained["after"] > WORTHWHILE * gained["before"]:
            break
    return name


def _refine(
    card: PreflightResult,
    prepared: CalibrationResult,
    run: RunDirectory,
    progress: Progress,
    number: int,
    name: str,
    refined: str,
) -> dict[str, float]:
    """A round over the whole subnet, from the layers called `name` to those called `refined`."""
    p, count = prepared, len(prepared.model.layers)
    run.forget(f"reformed-{refined}")  # of a step that was killed: another device makes another one
    windows, heldout = _text(card, prepared, run, progress, number)
    with progress.stage("reform: the whole subnet", ITERATIONS + 1) as bar:
        subnet = p.store.load(count, partial(finished_layer, run, name))
        text = KLProblem(p.model, subnet, windows, heldout, p.store)
        layers, before, after = refine_model(text, bar.advance, p.workers)
        for index in range(count):
            run.saved(f"reformed-{refined}-{index:03d}", partial(_item, layers, index))
    return {"before": before, "after": after}


def _item(layers: Sequence[Weights], index: int) -> Finished:
    return dict(layers[index])


def _text(
    card: PreflightResult, prepared: CalibrationResult, run: RunDirectory, progress: Progress, number: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """[B, T] windows of a round, and which are held out. The first has the calibration text, later ones as
    much again that the dense model goes on to write; the held-out windows are the same for all.
    """
    windows, heldout = prepared.windows, prepared.heldout
    if number == 0:
        return windows, heldout
    written = run.tensors(
        f"written-{prepared.key}-{number}",
        lambda: {
            "windows": continue_text(
                card.source,
                windows[~heldout],
                seed=number,
                progress=progress,
                store=prepared.store,
                workers=prepared.workers,
            )
        },
    )
    return windows.masked_scatter(~heldout[:, None], written["windows"]), heldout


@dataclass(frozen=True)
class FinishedLayers:
    """Layers in a run directory under a name, by index, read to the device of a store."""

    path: Path
    name: str
    store: ArrayStore = field(default_factory=ArrayStore)

    def __call__(self, index: int) -> Finished:
        """Raises:
        UserError: it is not there.
        """
        file = self.path / f"reformed-{self.name}-{index:03d}.safetensors"
        if not file.exists():
            raise UserError(f"{self.path} lost a finished layer", "Remove it and run again.")
        return dict(self.store.here(Saved(file).all()))


def finished_layer(run: RunDirectory, name: str, index: int) -> Finished:
    return FinishedLayers(run.path, name)(index)
