from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from lathe.serving.metrics.rate import TokenRate
from lathe.serving.metrics.registry import Metrics
from lathe.serving.metrics.target import RESULTS
from lathe.serving.metrics.vllm_names import ALIASES
from support.tiny_server import CONTEXT, NAME, Running, running

PROMISED = {
    "backend_up": "gauge",
    "dense_kv_cache_bytes_per_token": "gauge",
    "dense_weight_bytes": "gauge",
    "generation_tokens": "counter",
    "generation_tokens_per_second": "gauge",
    "inter_token_latency_seconds": "histogram",
    "kv_cache_bytes": "gauge",
    "kv_cache_bytes_per_token": "gauge",
    "kv_cache_reserved_bytes": "gauge",
    "kv_cache_resident_bytes": "gauge",
    "kv_cache_usage_ratio": "gauge",
    "model_info": "gauge",
    "model_weight_bytes": "gauge",
    "prefix_cache_hit_tokens": "counter",
    "prefix_cache_queried_tokens": "counter",
    "prompt_tokens": "counter",
    "queue_seconds": "histogram",
    "request_duration_seconds": "histogram",
    "requests": "counter",
    "requests_running": "gauge",
    "requests_waiting": "gauge",
    "resident_memory_bytes": "gauge",
    "target_results": "counter",
    "target_seconds": "gauge",
    "time_per_output_token_seconds": "histogram",
    "time_to_first_token_seconds": "histogram",
}
"""The type of every metric by its name; on a machine with a GPU there are two more, `lathe_gpu_...`."""


def scrape(server: Running) -> dict[str, float]:
    text = httpx.get(f"{server.url}/metrics").text
    samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()) if k != "model")
            samples[f"{sample.name}{{{labels}}}"] = sample.value
    return samples


def test_the_metrics_are_those_promised(server: Running):
    text = httpx.get(f"{server.url}/metrics").text
    types = {family.name: family.type for family in text_string_to_metric_families(text)}
    ours = {name: kind for name, kind in types.items() if name.startswith("lathe_")}
    ours = {name: kind for name, kind in ours.items() if not name.endswith("_created")}
    gpu = {"lathe_gpu_memory_used_bytes", "lathe_gpu_memory_total_bytes"} & ours.keys()
    assert ours == {f"lathe_{name}": kind for name, kind in PROMISED.items()} | dict.fromkeys(gpu, "gauge")
    assert "process_resident_memory_bytes" in types


def test_counters_equal_the_usage_that_clients_were_told(artefact_dir: Path):
    with running(artefact_dir) as server:
        usages = [
            server.complete("The dog", max_tokens=13, n=3, seed=1)["usage"],
            server.complete([[8, 9], [5, 6, 7]], max_tokens=7, seed=2)["usage"],
            server.complete("x", max_tokens=0, echo=True)["usage"],
            server.complete("x", max_tokens=5, stop=["e"], seed=3)["usage"],
        ]
        samples = scrape(server)
        for kind, field in (("prompt", "prompt_tokens"), ("generation", "completion_tokens")):
            assert samples[f"lathe_{kind}_tokens_total{{}}"] == sum(usage[field] for usage in usages)
        assert samples["lathe_requests_total{endpoint=completions,outcome=ok}"] == 4
        assert samples["lathe_request_duration_seconds_count{}"] == 4
        assert samples["lathe_queue_seconds_count{}"] == 7
        assert samples["lathe_time_to_first_token_seconds_count{}"] == 6
        tokens = samples["lathe_generation_tokens_total{}"]
        assert samples["lathe_inter_token_latency_seconds_count{}"] == tokens - 6
        assert samples["lathe_generation_tokens_per_second{}"] == pytest.approx(tokens / 10)
        assert samples["lathe_backend_up{}"] == 1
        assert samples["lathe_requests_running{}"] == samples["lathe_kv_cache_usage_ratio{}"] == 0
        assert samples["lathe_model_weight_bytes{}"] == server.runner.weight_bytes
        assert samples["lathe_dense_weight_bytes{}"] == server.runner.weight_bytes
        assert samples["lathe_kv_cache_bytes{}"] == server.runner.kv_cache_bytes
        per_token = samples["lathe_kv_cache_bytes_per_token{}"]
        assert per_token * 4 * CONTEXT == samples["lathe_kv_cache_bytes{}"]
        assert samples["lathe_dense_kv_cache_bytes_per_token{}"] == per_token
        assert samples["lathe_resident_memory_bytes{}"] > server.runner.kv_cache_bytes
        results = [samples[f"lathe_target_results_total{{metric=tpot,result={r}}}"] for r in RESULTS]
        assert sum(results) == samples["lathe_time_per_output_token_seconds_count{}"] > 0


def test_the_target_is_a_bucket_edge(server: Running):
    samples = scrape(server)
    for name in ("time_per_output_token", "inter_token_latency"):
        assert f"lathe_{name}_seconds_bucket{{le=0.017}}" in samples
        assert f"lathe_{name}_seconds_bucket{{le=0.03}}" in samples
    assert samples["lathe_target_seconds{metric=tpot}"] == 0.017


@pytest.mark.parametrize(
    ("metric", "edges"),
    [
        ("tpot", {"time_per_output_token", "inter_token_latency"}),
        ("ttft", {"time_to_first_token"}),
        ("e2e", {"request_duration"}),
    ],
)
def test_a_target_is_counted_in_its_own_metric(metric: str, edges: set[str]):
    """21 ms: first tokens and requests here take longer, tokens less."""
    metrics = Metrics(NAME, 21.0, target_metric=metric)
    metrics.first_token(0.03)
    metrics.finished(0.021)
    metrics.finished(None)
    metrics.request("chat", "ok", 0.5)
    metrics.request("chat", "error", 0.001)

    def value(name: str, **labels: str) -> float | None:
        return metrics.exposition.registry.get_sample_value(name, {"model": NAME, **labels})

    counts = [value("lathe_target_results_total", metric=metric, result=result) for result in RESULTS]
    assert counts == ([1, 0] if metric == "tpot" else [0, 1])
    names = ("time_per_output_token", "inter_token_latency", "time_to_first_token", "request_duration")
    found = {name for name in names if value(f"lathe_{name}_seconds_bucket", le="0.021") is not None}
    assert found == edges


def test_without_a_target_nothing_is_counted():
    metrics = Metrics(NAME)
    metrics.finished(0.02)
    assert b"lathe_target_results_total{" not in metrics.exposition.render()
    assert b"lathe_target_seconds{" not in metrics.exposition.render()


def test_labels_do_not_grow_with_what_clients_send(server: Running):
    before = set(scrape(server))
    for i in range(5):
        server.post("completions", model=f"made-up-{i}", prompt="x")
        httpx.get(f"{server.url}/made/up/{i}")
    assert set(scrape(server)) == before


def test_vllms_names_say_the_same(artefact_dir: Path):
    with running(artefact_dir, alias="vllm") as server:
        server.complete(max_tokens=9, seed=1)
        text = httpx.get(f"{server.url}/metrics").text
        families = {f.name: f for f in text_string_to_metric_families(text)}
        assert len([name for name in families if name.startswith("vllm:")]) == 10
        for ours, alias in ALIASES["vllm"].items():
            assert families[alias].type == families[ours].type
            values = [sample.value for sample in families[ours].samples]
            assert [sample.value for sample in families[alias].samples] == values
            assert {s.labels["model_name"] for s in families[alias].samples} == {NAME}
        assert "vllm:generation_tokens_total{" in text
        assert "vllm:e2e_request_latency_seconds_bucket{" in text


def test_gpu_memory_is_absent_without_a_gpu(server: Running):
    pynvml = pytest.importorskip("pynvml")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        assert "lathe_gpu_memory_used_bytes" not in httpx.get(f"{server.url}/metrics").text
    else:
        assert "lathe_gpu_memory_used_bytes" in httpx.get(f"{server.url}/metrics").text


def test_the_token_rate_forgets(monkeypatch: pytest.MonkeyPatch):
    now = [100.0]
    monkeypatch.setattr("lathe.serving.metrics.rate.time.monotonic", lambda: now[0])
    rate = TokenRate()
    for _ in range(50):
        rate.add()
    assert rate.per_second() == 5
    now[0] += 9.8
    assert rate.per_second() == 5
    now[0] += 0.5
    assert rate.per_second() == 0


def test_registries_are_separate():
    Metrics(NAME)
    Metrics(NAME)
