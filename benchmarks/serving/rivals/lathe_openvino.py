"""Ours on ONNX Runtime, whose prompts OpenVINO reads: `lathe serve --prompts`.

Of the bf16 column only the prompts are: ONNX Runtime decodes from float32, and both hold their weights.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.serving.graph_bytes import streamed_bytes
from benchmarks.serving.rival import Engine, Job, Rival, rivals
from benchmarks.serving.rivals.lathe import make_graph
from benchmarks.serving.slots import Slots
from lathe.artefact.onnx.graph_format import GRAPH


def with_prompts(directory: Path, job: Job, prompts: Any) -> Engine:
    """Ours as `lathe serve` loads it with `--prompts`; its times are kept beside the job's files."""
    from lathe.artefact.onnx.runner import OnnxRunner
    from lathe.serving.launch.prompts import read_prompts
    from lathe.serving.options import ServeOptions

    path = directory / GRAPH
    runner = OnnxRunner(path, max_batch=job.batch, max_length=job.length, threads=job.threads)
    options = ServeOptions(out=directory, threads=job.threads, prompts=prompts)
    name = read_prompts(runner, path, str(directory), options)
    return Slots(runner, streamed_bytes(path), f"onnx, prompts by {name}")


def _make(job: Job) -> Path:
    return make_graph(replace(job, format=job.format.partition(" ")[0]))


def _load(directory: Path, job: Job) -> Engine:
    return with_prompts(directory, job, job.format.rpartition(" ")[2])


rivals.add(
    "lathe-openvino",
    Rival(
        title="Lathe, ONNX Runtime and OpenVINO",
        python=".venv-openvino/bin/python",
        packages=("lathe", "onnxruntime", "openvino"),
        formats={
            "fp32": "fp32 openvino",
            "bf16": "fp32 openvino-bf16",
            "int8": "int8 openvino-bf16",
            "int4": "int4 openvino-bf16",
        },
        make=_make,
        load=_load,
    ),
)
