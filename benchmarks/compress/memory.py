"""Time and peak memory by stage of this tree alone, one model after the other."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.compress import summary
from benchmarks.compress.compression import Compression, Task, tell
from benchmarks.compress.interleave import interleave
from benchmarks.compress.models import prepare_model
from benchmarks.source_tree import SourceTree, snapshot


def documents(args: argparse.Namespace, scratch: Path) -> Iterator[dict[str, Any]]:
    """Yields the document after every model; one whose compression fails does not keep the next from running.

    Raises:
        UserError: a model or a text is missing, or the disk has no space.
    """
    tree = snapshot(scratch / "tree")
    models: list[dict[str, Any]] = []
    for number, model in enumerate(args.model):
        models.append(_model(tree, model, args, scratch / f"model-{number}"))
        yield {
            "format": "lathe-bench-compress-memory/1",
            "name": "memory",
            "commits": {"ours": tree.commit},
            "failed": [f"{row['model']['name']}: {why}" for row in models if (why := row["failed"])],
            "models": models,
        }


def _model(tree: SourceTree, name: str, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Compresses one model."""
    model = prepare_model(name, args.layers, folder)
    task = Task(model.path, args.target, args.text, args.tokens, args.evaluation)
    run = Compression(tree, task, folder / "run")
    try:
        segments = interleave({model.name: run.process}, tell)[model.name]
    finally:
        run.process.kill()
    found = run.document(segments)
    shutil.rmtree(folder)
    return {"model": model.facts, **found}


def lines(document: Mapping[str, Any]) -> Iterator[str]:
    """Yields what is printed of a document."""
    for row in document["models"]:
        facts = row["model"]
        yield (
            f"\n{facts['name']}: {facts['layers']} of {facts['layers_of_the_model']} layers, "
            f"{facts['parameters'] / 1e6:.0f} M parameters, {facts['vocabulary_rows']:,} rows"
        )
        yield from summary.stage_table(row)
        yield from summary.result_lines(facts["name"], row["result"])
    yield from (f"failed: {failed}" for failed in document["failed"])
