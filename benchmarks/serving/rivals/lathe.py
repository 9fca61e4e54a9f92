"""Ours: the exporter's graph in the runner that `lathe serve` uses."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from benchmarks.serving.graph_bytes import streamed_bytes
from benchmarks.serving.rival import Engine, Job, Rival, rivals, run
from lathe.artefact.onnx.graph_format import GRAPH


class _Lathe:
    def __init__(self, directory: Path, job: Job) -> None:
        from lathe.artefact.onnx.runner import OnnxRunner

        path = directory / GRAPH
        self._runner = OnnxRunner(path, max_batch=job.batch, max_length=job.length, threads=job.threads)
        self.streamed_bytes = streamed_bytes(path)
        self.kv_bytes = self._runner.kv_bytes_per_token
        self._next = np.zeros(0, np.int64)

    def prefill(self, prompts: np.ndarray) -> np.ndarray:
        self._next = self.logits(prompts).argmax(-1)
        return self._next

    def decode(self) -> np.ndarray:
        self._next = self._runner.decode(self._next).argmax(-1)
        return self._next

    def logits(self, prompts: np.ndarray) -> np.ndarray:
        for slot in range(len(prompts)):
            self._runner.reset(slot)
        return np.concatenate([self._runner.prefill(slot, row) for slot, row in enumerate(prompts)])


def _make(job: Job) -> Path:
    """What `lathe export` writes, or, in float32, the graph that an artefact has already."""
    plain = job.format == "fp32"
    if plain and (job.model / GRAPH).is_file():
        return job.model
    if not job.out.exists():
        quantize = [] if plain else ["--quantize", job.format]
        command = (sys.executable, "-m", "lathe", "export", str(job.model), "--to", "onnx")
        run(*command, *quantize, "-o", str(job.out))
    return job.out


def _load(directory: Path, job: Job) -> Engine:
    return _Lathe(directory, job)


rivals.add(
    "lathe",
    Rival(
        title="Lathe, ONNX Runtime",
        python=".venv/bin/python",
        packages=("lathe", "onnxruntime"),
        formats={"fp32": "fp32", "int8": "int8", "int4": "int4"},
        make=_make,
        load=_load,
        models=("dense", "subnet"),
    ),
)
