"""onnxruntime-genai: a graph from its own builder, through its Generator."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serving.graph_bytes import streamed_bytes
from benchmarks.serving.rival import Engine, Job, Rival, cached_values, read_config, rivals, run


class _Genai:
    """A generator for each batch size, rewound for each prompt."""

    def __init__(self, directory: Path, job: Job) -> None:
        import onnxruntime_genai

        self._api, self._job = onnxruntime_genai, job
        self._model = onnxruntime_genai.Model(str(directory))
        self._generators: dict[int, Any] = {}
        self._generator: Any = None
        self.streamed_bytes = streamed_bytes(directory / "model.onnx")
        self.kv_bytes = 4 * cached_values(read_config(job.model))

    def prefill(self, prompts: np.ndarray) -> np.ndarray:
        self._read(prompts)
        return self.decode()

    def decode(self) -> np.ndarray:
        """Takes the likeliest token of the logits there are; without any, runs the model first."""
        self._generator.generate_next_token()
        return np.asarray(self._generator.get_next_tokens())

    def logits(self, prompts: np.ndarray) -> np.ndarray:
        self._read(prompts)
        return np.asarray(self._generator.get_logits()).reshape(len(prompts), -1)

    def _read(self, prompts: np.ndarray) -> None:
        count = len(prompts)
        if count not in self._generators:
            options = self._api.GeneratorParams(self._model)
            options.set_search_options(batch_size=count, max_length=self._job.length, do_sample=False)
            self._generators[count] = self._api.Generator(self._model, options)
        self._generator = self._generators[count]
        self._generator.rewind_to(0)
        self._generator.append_tokens(prompts.astype(np.int32))


def _make(job: Job) -> Path:
    """By its builder, with logits of the last token only.

    It insists on a token that ends an answer: the last of the vocabulary.
    """
    if not job.out.exists():
        command = (sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(job.model))
        files = ("-o", str(job.out), "-c", str(job.out / "cache"))
        run(*command, *files, "-p", job.format, "-e", "cpu", "--extra_options", "prune_lm_head=true")
    path = job.out / "genai_config.json"
    config = json.loads(path.read_text())
    config["model"]["eos_token_id"] = config["model"]["vocab_size"] - 1
    config["model"]["decoder"]["session_options"]["intra_op_num_threads"] = job.threads
    path.write_text(json.dumps(config))
    return job.out


def _load(directory: Path, job: Job) -> Engine:
    return _Genai(directory, job)


rivals.add(
    "genai",
    Rival(
        title="onnxruntime-genai",
        python=".venv-rivals-genai/bin/python",
        packages=("onnxruntime-genai", "onnxruntime"),
        formats={"fp32": "fp32", "int8": "int8", "int4": "int4"},
        make=_make,
        load=_load,
    ),
)
