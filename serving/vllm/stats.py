"""Receives what vLLM's engine reports of every step (entry-point group `vllm.stat_logger_plugins`)."""

from __future__ import annotations

from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.v1.metrics.loggers import StatLoggerBase

from lathe.serving.vllm.metrics import vllm_metrics


class LatheStatLogger(StatLoggerBase):
    """Passes the reports on to our metrics; does nothing in a vLLM that `lathe serve` did not start."""

    def __init__(self, vllm_config: VllmConfig, engine_index: int = 0) -> None:  # noqa: ARG002
        self._metrics = vllm_metrics()
        self._config = vllm_config

    def log_engine_initialized(self) -> None:
        if self._metrics is not None:
            model: torch.dtype = self._config.model_config.dtype
            cache = self._config.cache_config
            itemsize = 1 if str(cache.cache_dtype).startswith("fp8") else model.itemsize
            self._metrics.sizes(model.itemsize, itemsize, (cache.num_gpu_blocks or 0) * cache.block_size)

    def record(
        self,
        scheduler_stats: Any,
        iteration_stats: Any,
        mm_cache_stats: Any = None,  # noqa: ARG002
        engine_idx: int = 0,  # noqa: ARG002
    ) -> None:
        if self._metrics is None:
            return
        if scheduler_stats is not None:
            waiting = scheduler_stats.num_waiting_reqs + scheduler_stats.num_skipped_waiting_reqs
            self._metrics.engine(scheduler_stats.num_running_reqs, waiting, scheduler_stats.kv_cache_usage)
            prompts = scheduler_stats.prefix_cache_stats
            self._metrics.prompts_looked_up(prompts.queries, prompts.hits)
        if iteration_stats is not None:
            self._metrics.step(iteration_stats)
