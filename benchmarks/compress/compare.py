"""This tree and another commit, interleaved by stage, for some rounds."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.compress import summary
from benchmarks.compress.compression import Compression, Task, tell
from benchmarks.compress.interleave import interleave
from benchmarks.compress.models import BenchModel, prepare_model
from benchmarks.compress.same_losses import same_losses
from benchmarks.source_tree import SourceTree, checkout, snapshot
from lathe.artefact.errors import UserError


def documents(args: argparse.Namespace, scratch: Path) -> Iterator[dict[str, Any]]:
    """Yields the document after every round; a round that fails is the last.

    Raises:
        UserError: a model, a text or a commit is missing, or the disk has no space.
    """
    if len(args.model) != 1:
        raise UserError("a comparison is of one model", "Give --model once, or --memory.")
    trees = {
        "baseline": checkout(args.baseline, scratch / "baseline"),
        "ours": snapshot(scratch / "ours"),
    }
    model = prepare_model(args.model[0], args.layers, scratch / "model")
    task = Task(model.path, args.target, args.text, args.tokens, args.evaluation)
    rounds: list[dict[str, Any]] = []
    for number in range(args.rounds):
        rounds.append(_round(trees, task, scratch / f"round-{number}", list(trees)[:: 1 - 2 * (number % 2)]))
        failed = [f"{side}: {why}" for side in trees if (why := rounds[-1][side]["failed"])]
        yield _document(model, rounds, failed)
        if failed:
            return


def _document(model: BenchModel, rounds: list[dict[str, Any]], failed: list[str]) -> dict[str, Any]:
    layers = f"-{model.facts['layers']}-layers" if model.facts["truncated"] else ""
    return {
        "format": "lathe-bench-compress/1",
        "name": f"{model.name}{layers}",
        "model": model.facts,
        "commits": {side: rounds[0][side]["commit"] for side in summary.SIDES},
        "failed": failed,
        "notes": summary.remarks(rounds),
        "ratios": summary.ratios(rounds),
        "rounds": rounds,
    }


def _round(trees: Mapping[str, SourceTree], task: Task, folder: Path, order: list[str]) -> dict[str, Any]:
    """Runs both once; the first of `order` begins."""
    runs = {side: Compression(trees[side], task, folder / side) for side in order}
    try:
        segments = interleave({side: run.process for side, run in runs.items()}, tell)
    finally:
        for run in runs.values():
            run.process.kill()
    found = {side: run.document(segments[side]) for side, run in runs.items()}
    made = {side: run.artefact for side, run in runs.items() if found[side]["result"]}
    for side, losses in same_losses(task.model, made, task.evaluation).items():
        found[side]["result"] |= losses
    shutil.rmtree(folder)
    return {"first": order[0], **found}


def lines(document: Mapping[str, Any]) -> Iterator[str]:
    """Yields what is printed of a document."""
    rounds, found = document["rounds"], document["ratios"]
    yield from summary.comparison_table(rounds, found)
    for one in rounds:
        for side in summary.SIDES:
            yield from summary.result_lines(side, one[side]["result"])
    if found["loss_increase"] is not None:
        yield f"loss increase, ours / baseline: {found['loss_increase']:.3f}"
    yield from (f"note: {note}" for note in document["notes"])
    yield from (f"failed: {failed}" for failed in document["failed"])
