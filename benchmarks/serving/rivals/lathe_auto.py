"""Ours as `lathe serve --engine auto` picks it, of an artefact with a graph and a GGUF file.

In bf16 there is no graph.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from benchmarks.serving.rival import Engine, Job, Rival, rivals
from benchmarks.serving.rivals.lathe import make_graph
from benchmarks.serving.rivals.lathe_llamacpp import load_file, make_file
from benchmarks.serving.rivals.lathe_openvino import with_prompts
from lathe.artefact.gguf_suffix import MODEL_FILE


def _make(job: Job) -> Path:
    """Both exports in one directory, if there are both; whole once the file is there."""
    from lathe.artefact.manifest import write_manifest

    graph, _, kind = job.format.rpartition(" ")
    if not graph:
        return make_file(replace(job, format=kind))
    if not (job.out / MODEL_FILE).exists():
        make_graph(replace(job, format=graph), always=True)
        made = make_file(replace(job, format=kind, out=job.out.with_name(f"{job.out.name}-gguf")))
        (made / MODEL_FILE).rename(job.out / MODEL_FILE)
        write_manifest(job.out)
    return job.out


def _load(directory: Path, job: Job) -> Engine:
    """What is measured to be faster now: times are kept for this job alone."""
    from lathe.serving.launch.engines.auto import PROMPTS, choose_engine
    from lathe.serving.options import ServeOptions

    os.environ["LATHE_CACHE"] = str(job.out.with_name(f"{job.out.name}-{os.getpid()}-times"))
    name, _ = choose_engine(directory, ServeOptions(out=directory, threads=job.threads))
    return load_file(directory, job) if name == "llamacpp" else with_prompts(directory, job, PROMPTS)


rivals.add(
    "lathe-auto",
    Rival(
        title="Lathe, --engine auto",
        python=".venv-llamacpp/bin/python",
        packages=("lathe", "onnxruntime", "openvino", "llama-cpp-python"),
        formats={"fp32": "fp32 f32", "bf16": "bf16", "int8": "int8 q8_0", "int4": "int4 q4_0"},
        make=_make,
        load=_load,
    ),
)
