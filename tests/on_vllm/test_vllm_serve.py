"""`lathe serve --engine vllm`, as a user starts it: its door, its metrics, its end."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from held_engine import HeldEngine, until
from openai import OpenAI
from prometheus_client.parser import text_string_to_metric_families

from lathe.artefact.manifest import write_manifest
from lathe.serving.loadtest.servers import RunningServer, served

TARGET_MS = 17.0
KEY = "sesame"
AUTHORIZATION = {"authorization": f"Bearer {KEY}"}
PAGE = "https://chat.example.com"
VLLM = ("--engine", "vllm", "--max-length", "512", "--threads", "1")
NOBODY = "http://127.0.0.1:9"
EAGER = ("--", "--enforce-eager", "--dtype", "float32")
PROMETHEUS = Path(__file__).parents[2] / "build/tools/usr/bin/prometheus"


@pytest.fixture(scope="module")
def aimed(artefact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artefact, with a target in milliseconds."""
    copy = Path(shutil.copytree(artefact, tmp_path_factory.mktemp("aimed") / "subnet"))
    report = json.loads((copy / "report.json").read_text())
    (copy / "report.json").write_text(json.dumps(report | {"latency": {"target_ms": TARGET_MS}}))
    write_manifest(copy)
    return copy


@contextmanager
def vllm_server(directory: Path, *options: str) -> Iterator[RunningServer]:
    """On a port of its own, every variable of pytest's in-process engines left behind."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("VLLM_ENABLE_V1_MULTIPROCESSING", "OMP_NUM_THREADS"):
            patch.delenv(name, raising=False)
        patch.setenv("LATHE_API_KEY", KEY)
        with served(directory, extra=[*VLLM, *options]) as server:
            yield server


@pytest.fixture(scope="module")
def server(aimed: Path) -> Iterator[RunningServer]:
    with vllm_server(aimed, "--allowed-origins", PAGE, "--compare", NOBODY, *EAGER) as running:
        yield running


def scrape(server: RunningServer) -> dict[str, float]:
    text = httpx.get(f"{server.url}/metrics", headers=AUTHORIZATION).text
    return {
        sample.name
        + "".join(
            f" {v}" for k, v in sorted(sample.labels.items()) if not k.startswith("model")
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def complete(server: RunningServer, **body: Any) -> httpx.Response:
    document = {"model": server.model, "prompt": "The boy", "temperature": 0} | body
    url = f"{server.url}/v1/completions"
    return httpx.post(url, json=document, headers=AUTHORIZATION, timeout=300)


def stream(server: RunningServer, tokens: int, lines: list[str], begun: threading.Event) -> None:
    body = {
        "model": server.model,
        "prompt": "The boy",
        "max_tokens": tokens,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    url = f"{server.url}/v1/completions"
    with httpx.stream("POST", url, json=body, headers=AUTHORIZATION, timeout=300) as response:
        assert response.status_code == 200
        begun.set()
        lines += [line for line in response.iter_lines() if line]


@contextmanager
def streaming(server: RunningServer, tokens: int, number: int = 3) -> Iterator[list[list[str]]]:
    """`number` answers under way, with or without a token yet; they have ended when the block has."""
    answers: list[list[str]] = [[] for _ in range(number)]
    begun = [threading.Event() for _ in range(number)]
    threads = [
        threading.Thread(target=stream, args=(server, tokens, lines, event))
        for lines, event in zip(answers, begun, strict=True)
    ]
    for thread in threads:
        thread.start()
    assert all(event.wait(60) for event in begun)
    yield answers
    for thread in threads:
        thread.join(300)
        assert not thread.is_alive()


def test_every_route_but_the_probes_asks_for_the_key(server: RunningServer) -> None:
    spec = httpx.get(f"{server.url}/openapi.json", headers=AUTHORIZATION).json()
    routes = {path for path in spec["paths"] if "{" not in path} | {"/metrics", "/docs", "/no-such-route"}
    probes = {"/health", "/health/live", "/health/ready"}
    assert len(routes) > 10
    for path in routes - probes:
        for answer in (httpx.get(f"{server.url}{path}"), httpx.post(f"{server.url}{path}", json={})):
            assert answer.status_code == 401
            assert answer.json()["error"]["code"] == "invalid_api_key"
    for path in probes:
        assert httpx.get(f"{server.url}{path}").status_code == 200
    wrong = httpx.get(f"{server.url}/v1/models", headers={"authorization": "Bearer open", "host": "/health"})
    assert wrong.status_code == 401


def test_the_playground_stands_before_vllm(server: RunningServer) -> None:
    page = httpx.get(server.url)
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for path, status in (("/playground/setup", 200), ("/compare/v1/models", 502)):
        assert httpx.get(server.url + path).status_code == 401
        assert httpx.get(server.url + path, headers=AUTHORIZATION).status_code == status
    setup = httpx.get(f"{server.url}/playground/setup", headers=AUTHORIZATION).json()
    assert setup == {"model": "subnet", "chat": True, "target_ms": TARGET_MS, "context": 512, "compare": True}


def test_a_page_of_a_named_origin_asks_without_a_key_and_calls_with_it(server: RunningServer) -> None:
    asked = {"origin": PAGE, "access-control-request-method": "POST"}
    allowed = httpx.options(f"{server.url}/v1/completions", headers=asked)
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, PAGE)
    answer = httpx.get(f"{server.url}/v1/models", headers=AUTHORIZATION | {"origin": PAGE})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, PAGE)
    other = httpx.get(f"{server.url}/v1/models", headers=AUTHORIZATION | {"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in other.headers


def test_the_openai_client_is_answered(server: RunningServer) -> None:
    client = OpenAI(base_url=f"{server.url}/v1", api_key=KEY)
    chat = client.chat.completions.create(
        model="subnet", messages=[{"role": "user", "content": "Hello"}], max_tokens=5
    )
    assert chat.usage is not None
    assert 0 < chat.usage.completion_tokens <= 5
    assert [model.id for model in client.models.list()] == ["subnet"]


def test_our_metrics_stand_beside_vllms(server: RunningServer, aimed: Path) -> None:
    before = scrape(server)
    usages = [complete(server, max_tokens=n, ignore_eos=True).json()["usage"] for n in (20, 1, 7)]
    assert complete(server, max_tokens=0, model="another").status_code == 404
    after = scrape(server)
    assert after["vllm:generation_tokens_total 0"] > 28

    def grown(name: str) -> float:
        return after[f"lathe_{name}"] - before.get(f"lathe_{name}", 0)

    assert grown("generation_tokens_total") == sum(usage["completion_tokens"] for usage in usages) == 28
    assert grown("prompt_tokens_total") == sum(usage["prompt_tokens"] for usage in usages)
    assert grown("requests_total completions ok") == 3
    assert grown("requests_total completions invalid") == 1
    assert grown("time_to_first_token_seconds_count") == 3
    assert grown("inter_token_latency_seconds_count") == 25
    assert grown("time_per_output_token_seconds_count") == 2
    assert grown("time_per_output_token_seconds_bucket 0.017") >= 0  # the target is an edge
    assert after["lathe_backend_up"] == 1
    layers = json.loads((aimed / "plan.json").read_text())["layers"]
    head_dim = json.loads((aimed / "config.json").read_text())["head_dim"]
    assert after["lathe_kv_cache_bytes"] > 100 * after["lathe_kv_cache_bytes_per_token"]
    assert after["lathe_dense_weight_bytes"] > after["lathe_model_weight_bytes"]
    assert after["lathe_target_seconds tpot"] == TARGET_MS / 1000
    counted = grown("target_results_total tpot kept") + grown("target_results_total tpot missed")
    assert counted == grown("time_per_output_token_seconds_count")
    assert after["lathe_kv_cache_bytes_per_token"] == 2 * 4 * head_dim * sum(x["kv_heads"] for x in layers)
    weights = (aimed / "model.safetensors").stat().st_size
    assert after["lathe_model_weight_bytes"] == pytest.approx(weights, rel=0.01)
    assert after["lathe_resident_memory_bytes"] > after["process_resident_memory_bytes"]


def test_tokens_per_second_rise_and_fall(server: RunningServer) -> None:
    def rate() -> float:
        return scrape(server)["lathe_generation_tokens_per_second"]

    complete(server, max_tokens=200, ignore_eos=True)
    until(lambda: rate() > 0)
    until(lambda: rate() == 0)


def test_a_client_that_goes_away_is_counted(server: RunningServer) -> None:
    name = "lathe_requests_total completions client_disconnect"
    before = scrape(server)[name]
    body = {"model": "subnet", "prompt": "x", "max_tokens": 490, "ignore_eos": True, "stream": True}
    url = f"{server.url}/v1/completions"
    with HeldEngine(server.pid):
        with httpx.stream("POST", url, json=body, headers=AUTHORIZATION) as response:
            assert response.status_code == 200
        until(lambda: scrape(server)[name] == before + 1)
    until(lambda: scrape(server)["lathe_requests_running"] == 0)
    assert complete(server, max_tokens=3, ignore_eos=True).json()["usage"]["completion_tokens"] == 3


def test_s5_a_stream_that_the_engine_leaves_waiting_has_comments(server: RunningServer) -> None:
    body = {"model": "subnet", "prompt": "x", "max_tokens": 3, "ignore_eos": True, "stream": True}
    url = f"{server.url}/v1/completions"
    with (
        HeldEngine(server.pid) as engine,
        httpx.stream("POST", url, json=body, headers=AUTHORIZATION, timeout=60) as response,
    ):
        lines = response.iter_lines()
        assert next(lines) == ": waiting"
        engine.release()
        said = [line for line in lines if line and line != ": waiting"]
    assert said[-1] == "data: [DONE]"
    assert all(line.startswith("data: ") for line in said)


def test_the_prefix_cache_is_counted_as_vllm_counts_it(server: RunningServer) -> None:
    before = scrape(server)
    for _ in range(2):
        complete(server, prompt=[7] * 300, max_tokens=2)
    after = scrape(server)
    ours = ("lathe_prefix_cache_queried_tokens_total", "lathe_prefix_cache_hit_tokens_total")
    vllms = ("vllm:prefix_cache_queries_total 0", "vllm:prefix_cache_hits_total 0")
    asked, found = (after[name] - before[name] for name in ours)
    assert (asked, found) == tuple(after[name] - before[name] for name in vllms)
    assert asked == 600
    assert found >= 256  # two blocks of 128 tokens


@pytest.mark.skipif(not PROMETHEUS.exists(), reason=f"no {PROMETHEUS}; `make test-vllm` fetches it")
def test_a_real_prometheus_reads_both(server: RunningServer, tmp_path: Path) -> None:
    with prometheus(server.url, tmp_path) as query:
        complete(server, max_tokens=50, ignore_eos=True)
        assert query("lathe_model_info")[0]["metric"]["backend"] == "vllm"
        assert float(query("lathe_generation_tokens_total")[0]["value"][1]) > 0
        assert query("vllm:generation_tokens_total")
        within = f'lathe_time_per_output_token_seconds_bucket{{le="{TARGET_MS / 1000}"}}'
        assert query(f"{within} / ignoring(le) lathe_time_per_output_token_seconds_count")


@contextmanager
def prometheus(url: str, directory: Path) -> Iterator[Any]:
    """A Prometheus that scrapes one server every second."""
    address = url.removeprefix("http://")
    config = {
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [
            {
                "job_name": "lathe",
                "authorization": {"credentials": KEY},
                "static_configs": [{"targets": [address]}],
            }
        ],
    }
    (directory / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        str(PROMETHEUS),
        f"--config.file={directory}/prometheus.yml",
        f"--storage.tsdb.path={directory}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def query(expression: str) -> list[dict[str, Any]]:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                answer = httpx.get(f"http://127.0.0.1:{port}/api/v1/query", params={"query": expression})
            except httpx.TransportError:
                answer = None
            if (
                answer is not None
                and answer.status_code == 200
                and (found := answer.json()["data"]["result"])
            ):
                return found
            time.sleep(0.5)
        pytest.fail(f"Prometheus has nothing for {expression}")

    try:
        yield query
    finally:
        process.terminate()
        process.wait(30)


def test_sigterm_finishes_what_runs_and_refuses_the_rest(aimed: Path) -> None:
    with vllm_server(aimed, "--drain-timeout", "300", *EAGER) as server:
        process = psutil.Process(server.pid)
        family = process.children(recursive=True)
        with HeldEngine(server.pid) as engine, streaming(server, tokens=490) as answers:
            process.send_signal(signal.SIGTERM)
            until(lambda: httpx.get(f"{server.url}/health/ready").status_code == 503)
            assert httpx.get(f"{server.url}/health/live").status_code == 200
            refused = complete(server, max_tokens=1)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            engine.release()
        assert [answer[-1] for answer in answers] == ["data: [DONE]"] * 3
        usages = [json.loads(answer[-2].removeprefix("data: "))["usage"] for answer in answers]
        assert [usage["completion_tokens"] for usage in usages] == [490] * 3
        assert process.wait(40) in (0, None)
        assert psutil.wait_procs(family, timeout=5)[1] == []


def test_two_api_servers_add_up_and_end_together(aimed: Path) -> None:
    """What the drain does not wait for ends with an error that the reader sees."""
    options = ("--drain-timeout", "0.5", *EAGER, "--api-server-count", "2")
    with vllm_server(aimed, *options) as server:
        process = psutil.Process(server.pid)
        family = process.children(recursive=True)
        usages = [complete(server, max_tokens=9, ignore_eos=True).json()["usage"] for _ in range(8)]
        samples = scrape(server)
        assert samples["lathe_generation_tokens_total"] == 8 * 9
        assert samples["lathe_prompt_tokens_total"] == sum(usage["prompt_tokens"] for usage in usages)
        assert samples["lathe_requests_total completions ok"] == 8
        assert samples["lathe_backend_up"] == 1
        assert samples["lathe_model_weight_bytes"] > 0
        assert samples["lathe_generation_tokens_per_second"] >= 0
        assert any(name.startswith("lathe_model_info") for name in samples)
        with HeldEngine(server.pid), streaming(server, tokens=490, number=4) as answers:
            process.send_signal(signal.SIGTERM)
        assert ["has stopped" in answer[-1] for answer in answers] == [True] * 4
        assert process.wait(40) in (0, None)
        assert psutil.wait_procs(family, timeout=5)[1] == []


def test_a_full_queue_is_429(aimed: Path) -> None:
    options = ("--max-batch", "1", "--max-queue", "0", *EAGER)
    with vllm_server(aimed, *options) as server, ThreadPoolExecutor(8) as clients:
        with HeldEngine(server.pid):
            asked = [clients.submit(complete, server, max_tokens=300, ignore_eos=True) for _ in range(8)]
            assert wait(asked, timeout=300, return_when=FIRST_COMPLETED).done
        answers = [future.result() for future in asked]
        refused = [answer for answer in answers if answer.status_code != 200]
        assert 0 < len(refused) < 8
        assert {(answer.status_code, answer.headers["retry-after"]) for answer in refused} == {(429, "1")}
        assert scrape(server)["lathe_requests_total completions rejected"] == len(refused)
