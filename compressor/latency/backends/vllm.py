"""vLLM's engine, in this process: its scheduler, its kernels and our definition, without an HTTP server."""

from __future__ import annotations

import atexit
import gc
import json
import os
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import torch

from lathe.artefact.atomic_files import write_json
from lathe.artefact.checkpoint_config import max_positions
from lathe.artefact.errors import UserError
from lathe.artefact.plan import Plan
from lathe.artefact.vllm.installed import INSTALL, require_vllm
from lathe.compressor.export.checkpoint import uneven_config
from lathe.compressor.latency.backend import backends
from lathe.compressor.latency.workload import Workload
from lathe.compressor.model.checkpoint import Checkpoint

_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
_WINDOW = 32
"""Tokens through which the context of a decode step moves."""
_PREFILL_TOKENS, _PREFILL_STEPS = 2048, 8
"""How many tokens of a batch's prompts are read at a time; more, if they took more steps than this: the first
request is one token ahead of the last for each."""
_CACHE_BLOCK = 128
_CACHE_SPACE = "VLLM_CPU_KVCACHE_SPACE"
"""Gibibytes that a CPU engine takes whatever it is told: a dozen engines at a time would fill the memory."""
_NAMES = count()


class VllmBackend:
    """Runs models in vLLM.

    Models that are built have a config only: vLLM makes their weights up. Weights and cache have the dtype
    that vLLM serves in by default.
    """

    name = "vllm"
    export = "vllm"

    def build(self, directory: Path, source: Checkpoint, plan: Plan, layers: int) -> None:
        config = {**source.config, "num_hidden_layers": layers}
        model = replace(source, config=config, shape=source.family.shape(config))
        write_json(directory / "config.json", uneven_config(model, plan))

    def prepare(self, directory: Path, workload: Workload, threads: int | None) -> Callable[[], None]:
        if workload.metric == "ttft":
            return _Prefill(directory, workload, threads)
        return _Decode(directory, workload, threads)

    def versions(self) -> dict[str, str]:
        vllm = _import_vllm()
        return {"vllm": vllm.__version__, "device": vllm.platforms.current_platform.device_type}


class _Prefill:
    """The prompt of one request, up to its first token."""

    def __init__(self, directory: Path, workload: Workload, threads: int | None) -> None:
        self._context = workload.context
        self._engine = _engine(directory, 1, workload.context + 1, threads)

    def __call__(self) -> None:
        _begin(self._engine, 1, self._context, 1)


class _Decode:
    """Steps that add a token to every request of a batch.

    So the context grows: from a little below the workload's to as much above it, over `_WINDOW` steps. The
    step after them begins with new requests, whose prompts take longer than a step: medians do not see it.
    """

    def __init__(self, directory: Path, workload: Workload, threads: int | None) -> None:
        limit = max_positions(_config(directory))
        self._batch = workload.batch_size
        self._window = min(_WINDOW, limit // 2)
        self._prompt = max(1, min(workload.context - self._window // 2, limit - self._window - 1))
        self._engine = _engine(directory, self._batch, self._prompt + self._window + 1, threads)
        self._names: list[str] = []

    def __call__(self) -> None:
        if not self._names:
            self._names = _begin(self._engine, self._batch, self._prompt, self._window + 1)
        if any(output.finished for output in _step(self._engine)):
            self._engine.abort_request(self._names)
            self._names = []


def _begin(engine: Any, batch: int, prompt: int, answer: int) -> list[str]:
    """Asks for `answer` tokens after each of `batch` prompts; returns when each has its first."""
    from vllm import SamplingParams

    sampling = SamplingParams(max_tokens=answer, temperature=0.0, ignore_eos=True, detokenize=False)
    vocabulary = engine.model_config.get_vocab_size()
    names = [str(next(_NAMES)) for _ in range(batch)]
    for name in names:
        engine.add_request(name, {"prompt_token_ids": [i % vocabulary for i in range(prompt)]}, sampling)
    waiting = set(names)
    while waiting:
        waiting -= {output.request_id for output in _step(engine)}
    return names


def _step(engine: Any) -> list[Any]:
    """Runs the model once; vLLM may schedule ahead, and then gives no tokens at first."""
    outputs: list[Any] = []
    while not outputs and engine.has_unfinished_requests():
        outputs = engine.step()
    return outputs


def _engine(directory: Path, batch: int, length: int, threads: int | None) -> Any:
    """An engine for `batch` sequences of up to `length` tokens, on an exported or a built model.

    Several are alive at a time, in one process. One that is no longer used has to be freed here: it is a
    cycle, frozen, and what vLLM does at its end would take the process's groups from the others.
    """
    vllm = _import_vllm()
    _free_unused()
    set_num_threads = torch.set_num_threads
    if threads is not None:
        set_num_threads(threads)
    arguments = vllm.EngineArgs(
        model=str(directory),
        load_format="auto" if any(directory.glob("*.safetensors")) else "dummy",
        skip_tokenizer_init=True,
        max_model_len=length,
        max_num_seqs=batch,
        max_num_batched_tokens=max(_PREFILL_TOKENS, -(-batch * length // _PREFILL_STEPS)),
        kv_cache_memory_bytes=_cache_bytes(_config(directory), batch, length),
        enable_prefix_caching=False,
        enforce_eager=vllm.platforms.current_platform.is_cpu(),
        disable_log_stats=True,
        use_tqdm_on_load=False,
    )
    space = os.environ.pop(_CACHE_SPACE, None)
    try:
        engine = vllm.LLMEngine.from_engine_args(arguments)
    finally:
        torch.set_num_threads = set_num_threads  # vLLM leaves one that does nothing
        if space is not None:
            os.environ[_CACHE_SPACE] = space
    engine.engine_core._finalizer.detach()
    return engine


@atexit.register
def _free_unused() -> None:
    gc.unfreeze()
    gc.collect()


def _cache_bytes(config: dict[str, Any], batch: int, length: int) -> int:
    """Enough for the dense model's cache in float32; a subnet gets room for more tokens."""
    blocks = batch * -(-length // _CACHE_BLOCK) + 2
    heads = config["num_hidden_layers"] * config["num_key_value_heads"]
    return int(2 * 4 * heads * config["head_dim"] * blocks * _CACHE_BLOCK)


def _config(directory: Path) -> dict[str, Any]:
    return dict(json.loads((directory / "config.json").read_text()))


def _import_vllm() -> Any:
    """vLLM, set to run its engine in this process.

    Raises:
        UserError: it is not installed, of a version that is not known, or cannot be imported.
    """
    require_vllm()
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import vllm
        import vllm.platforms
    except ImportError as error:
        raise UserError(f"vLLM cannot be imported: {error}", INSTALL) from None
    return vllm


backends.add(VllmBackend.name, VllmBackend())
