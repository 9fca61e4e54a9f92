"""transformers' own model in PyTorch, step by step with its growing cache; int8 by dynamic quantization."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serving.rival import Engine, Job, Rival, cached_values, read_config, rivals
from lathe.artefact.modeling.cache import new_cache


class _Torch:
    def __init__(self, model: Path, job: Job) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self._torch = torch
        torch.set_num_threads(job.threads)
        dtype = torch.bfloat16 if job.format == "bfloat16" else torch.float32
        self._model: Any = AutoModelForCausalLM.from_pretrained(model, dtype=dtype).eval()
        if job.format == "qint8":
            self._model = _quantized(self._model)
        self._past: dict[str, Any] = {}
        self._next: Any = None
        self.streamed_bytes = _streamed(self._model)
        self.kv_bytes = dtype.itemsize * cached_values(read_config(job.model))

    def prefill(self, prompts: np.ndarray) -> np.ndarray:
        self._next = self._first(prompts).argmax(-1)
        return self._next.numpy()

    def decode(self) -> np.ndarray:
        self._next = self._run(self._next[:, None]).argmax(-1)
        return self._next.numpy()

    def logits(self, prompts: np.ndarray) -> np.ndarray:
        return self._first(prompts).float().numpy()

    def _first(self, prompts: np.ndarray) -> Any:
        self._past = new_cache()
        return self._run(self._torch.from_numpy(prompts))

    def _run(self, tokens: Any) -> Any:
        with self._torch.inference_mode():
            found = self._model(tokens, use_cache=True, logits_to_keep=1, **self._past)
        return found.logits[:, -1]


def _quantized(model: Any) -> Any:
    import torch
    from torch.ao.quantization import quantize_dynamic

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)


def _streamed(model: Any) -> int:
    """Parameters, packed ones too; of the embedding only where it is the head."""
    embedding = model.get_input_embeddings().weight
    total = 0
    for module in model.modules():
        if callable(packed := getattr(module, "weight", None)):
            total += packed().numel() + 4 * packed().shape[0]
    plain = {id(value): value for value in model.parameters()}
    tied = getattr(model.get_output_embeddings(), "weight", None) is embedding
    total += sum(value.numel() * value.element_size() for value in plain.values())
    return total - (0 if tied else embedding.numel() * embedding.element_size())


def _make(job: Job) -> Path:
    return job.model


def _load(model: Path, job: Job) -> Engine:
    return _Torch(model, job)


rivals.add(
    "torch",
    Rival(
        title="transformers, PyTorch",
        python=".venv/bin/python",
        packages=("torch", "transformers"),
        formats={"fp32": "float32", "bf16": "bfloat16", "int8": "qint8"},
        make=_make,
        load=_load,
    ),
)
