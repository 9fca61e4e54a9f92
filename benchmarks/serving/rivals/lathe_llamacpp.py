"""Ours on llama.cpp: the exporter's GGUF file in the runner that `lathe serve --engine llamacpp` uses."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.serving.rival import Engine, Job, Rival, rivals, run
from benchmarks.serving.slots import Slots
from lathe.artefact.gguf_suffix import MODEL_FILE


def make_file(job: Job) -> Path:
    """The directory of what `lathe export --to gguf` writes."""
    if not job.out.exists():
        command = (sys.executable, "-m", "lathe", "export", str(job.model), "--to", "gguf")
        run(*command, "--quantize", job.format, "-o", str(job.out))
    return job.out


def load_file(directory: Path, job: Job) -> Engine:
    """A directory's GGUF file in our runner."""
    from benchmarks.serving.rivals.llama_cpp import streamed_bytes
    from lathe.artefact.llamacpp.runner import LlamaCppRunner

    path = directory / MODEL_FILE
    runner = LlamaCppRunner(path, max_batch=job.batch, max_length=job.length, threads=job.threads)
    return Slots(runner, streamed_bytes(path), "llamacpp")


rivals.add(
    "lathe-llamacpp",
    Rival(
        title="Lathe, llama.cpp",
        python=".venv-llamacpp/bin/python",
        packages=("lathe", "llama-cpp-python"),
        formats={"fp32": "f32", "bf16": "bf16", "int8": "q8_0", "int4": "q4_0"},
        make=make_file,
        load=load_file,
        models=("dense", "subnet"),
    ),
)
