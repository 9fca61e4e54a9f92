"""Ours: the exporter's graph in the runner that `lathe serve` uses."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.serving.graph_bytes import streamed_bytes
from benchmarks.serving.rival import Engine, Job, Rival, rivals, run
from benchmarks.serving.slots import Slots
from lathe.artefact.onnx.graph_format import GRAPH


def make_graph(job: Job, always: bool = False) -> Path:
    """What `lathe export` writes, or, in float32, unless `always`, the graph that an artefact has already."""
    plain = job.format == "fp32"
    if plain and (job.model / GRAPH).is_file() and not always:
        return job.model
    if not job.out.exists():
        quantize = [] if plain else ["--quantize", job.format]
        command = (sys.executable, "-m", "lathe", "export", str(job.model), "--to", "onnx")
        run(*command, *quantize, "-o", str(job.out))
    return job.out


def _load(directory: Path, job: Job) -> Engine:
    from lathe.artefact.onnx.runner import OnnxRunner

    path = directory / GRAPH
    runner = OnnxRunner(path, max_batch=job.batch, max_length=job.length, threads=job.threads)
    return Slots(runner, streamed_bytes(path))


rivals.add(
    "lathe",
    Rival(
        title="Lathe, ONNX Runtime",
        python=".venv/bin/python",
        packages=("lathe", "onnxruntime"),
        formats={"fp32": "fp32", "int8": "int8", "int4": "int4"},
        make=make_graph,
        load=_load,
        models=("dense", "subnet"),
    ),
)
