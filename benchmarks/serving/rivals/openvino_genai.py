"""OpenVINO GenAI: its continuous batching on the GGUF file that our exporter writes.

Its reader takes no floats but float16: that is its bf16 column, computed in bfloat16, and it has no fp32.
"""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serving.rival import Engine, Job, Rival, cached_values, read_config, rivals
from benchmarks.serving.rivals.lathe_llamacpp import make_file
from benchmarks.serving.rivals.llama_cpp import streamed_bytes
from lathe.artefact.gguf_suffix import MODEL_FILE

_CACHE_BYTES = 1
"""Of a cached value, by default."""


class _OpenVinoGenai:
    """Prompts of a batch are read in one pass. Logits are not to be had."""

    logits = None

    def __init__(self, path: Path, job: Job) -> None:
        import openvino
        import openvino_genai

        config = read_config(job.model)
        self.streamed_bytes = streamed_bytes(path)
        self.kv_bytes = _CACHE_BYTES * cached_values(config)
        self._tensor = openvino.Tensor
        plan = openvino_genai.SchedulerConfig()
        plan.max_num_batched_tokens, plan.max_num_seqs = job.batch * job.length, job.batch
        plan.cache_size, plan.enable_prefix_caching = 1, False
        settings = {"INFERENCE_NUM_THREADS": job.threads}
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(str(path), plan, "CPU", settings)
        self._wanted = openvino_genai.GenerationConfig(
            max_new_tokens=job.length, ignore_eos=True, do_sample=False
        )
        self._names = count()
        self._running: list[Any] = []

    def prefill(self, prompts: np.ndarray) -> np.ndarray:
        for handle in self._running:
            handle.cancel()
        if self._running:
            self._pipeline.step()
        self._running = [
            self._pipeline.add_request(next(self._names), self._tensor(row[None].copy()), self._wanted)
            for row in prompts
        ]
        return self.decode()

    def decode(self) -> np.ndarray:
        found: dict[int, int] = {}
        while len(found) < len(self._running):
            self._pipeline.step()
            for index, handle in enumerate(self._running):
                if handle.can_read():
                    (output,) = handle.read().values()
                    found[index] = output.generated_ids[-1]
        return np.array([found[index] for index in range(len(self._running))])


def _load(directory: Path, job: Job) -> Engine:
    return _OpenVinoGenai(directory / MODEL_FILE, job)


rivals.add(
    "openvino-genai",
    Rival(
        title="OpenVINO GenAI",
        python=".venv-rivals-openvino/bin/python",
        packages=("openvino-genai", "openvino"),
        formats={"bf16": "f16", "int8": "q8_0", "int4": "q4_0"},
        make=make_file,
        load=_load,
    ),
)
