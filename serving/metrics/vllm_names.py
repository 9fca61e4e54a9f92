"""Our metrics under vLLM's names, so that what reads vLLM's metrics can read ours."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

ALIASES = {
    "vllm": {
        "lathe_requests_running": "vllm:num_requests_running",
        "lathe_requests_waiting": "vllm:num_requests_waiting",
        "lathe_kv_cache_usage_ratio": "vllm:kv_cache_usage_perc",
        "lathe_prompt_tokens": "vllm:prompt_tokens",
        "lathe_generation_tokens": "vllm:generation_tokens",
        "lathe_prefix_cache_queried_tokens": "vllm:prefix_cache_queries",
        "lathe_prefix_cache_hit_tokens": "vllm:prefix_cache_hits",
        "lathe_time_to_first_token_seconds": "vllm:time_to_first_token_seconds",
        "lathe_inter_token_latency_seconds": "vllm:inter_token_latency_seconds",
        "lathe_request_duration_seconds": "vllm:e2e_request_latency_seconds",
    }
}
"""vLLM's names of the metrics that have the same meaning and unit."""


class VllmAlias(Collector):
    """Copies some metric families of `registry` at every scrape, labelled as vLLM labels them."""

    def __init__(self, registry: CollectorRegistry, server: str) -> None:
        self._registry = registry
        self._names = ALIASES[server]

    def describe(self) -> list[Metric]:
        """Returns nothing: the families are known once there is something to copy."""
        return []

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            if family.name in self._names:
                yield self._renamed(family)

    def _renamed(self, family: Metric) -> Metric:
        alias = Metric(self._names[family.name], family.documentation, family.type)
        for sample in family.samples:
            if sample.name.endswith("_created"):
                continue
            labels = {"model_name": sample.labels["model"], "engine": "0"}
            labels |= {key: value for key, value in sample.labels.items() if key != "model"}
            alias.add_sample(sample.name.replace(family.name, alias.name, 1), labels, sample.value)
        return alias
