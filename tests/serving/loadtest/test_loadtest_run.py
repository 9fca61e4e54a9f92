"""Whole runs against the mock: counts are exact, latencies have the mock's own sleeps as lower bounds."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lathe.artefact.errors import UserError
from lathe.serving.loadtest.compare import run
from lathe.serving.loadtest.load import Load
from lathe.serving.loadtest.mock import Fault, Mock
from lathe.serving.loadtest.prompts import PromptChoice
from lathe.serving.loadtest.testbed import Serving, Setup

ServeMock = Callable[[Mock], str]

KINDS = {
    "429": "http_429",
    "500": "http_500",
    "drop": "dropped",
    "truncate": "truncated",
    "malformed": "malformed",
    "error_event": "error_event",
}


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
@pytest.mark.parametrize("pattern", [{"concurrency": 3}, {"rate": 100.0}])
def test_counts_are_exact_and_latencies_no_shorter_than_the_servers(
    serve_mock: ServeMock, endpoint: str, pattern: dict[str, float]
) -> None:
    mock = Mock(ttft_s=0.03, itl_s=0.01, tokens_per_word=2)
    load = Load(requests=7, warmup=2, output_tokens=5, endpoint=endpoint, **pattern)
    found = run(serve_mock(mock), load, rounds=2, setup=Setup(PromptChoice(tokens=20)))
    system = found["systems"]["server"]
    assert found["format"] == "lathe-loadtest/1"
    assert mock.streamed == 2 * (7 + 2)
    assert (system["requests"], system["failed"], system["errors"]) == (14, 0, {})
    assert (system["output_tokens"], system["prompt_tokens"]) == (14 * 5, 14 * 20)
    assert (system["ttft_ms"]["n"], system["tpot_ms"]["n"], system["itl_ms"]["n"]) == (14, 14, 14 * 4)
    assert system["ttft_ms"]["min"] >= 30
    assert system["e2e_ms"]["min"] >= 30 + 4 * 10
    mean = {name: system[f"{name}_ms"]["mean"] for name in ("ttft", "tpot", "itl", "e2e")}
    assert mean["tpot"] == pytest.approx(mean["itl"], abs=0.001)
    assert mean["e2e"] == pytest.approx(mean["ttft"] + 4 * mean["tpot"], abs=0.01)
    assert [len(one["samples"]) for one in system["rounds"]] == [7, 7]
    assert all(len(sample["chunks_ms"]) == 5 for one in system["rounds"] for sample in one["samples"])


@pytest.mark.parametrize("fault", KINDS)
def test_failures_are_counted_by_kind_and_kept_out_of_the_numbers(
    serve_mock: ServeMock, fault: Fault
) -> None:
    mock = Mock(fault=fault, fault_every=3)
    load = Load(concurrency=1, requests=9, warmup=0, output_tokens=4)
    system = run(serve_mock(mock), load, setup=Setup(PromptChoice(tokens=5)))["systems"]["server"]
    assert system["errors"] == {KINDS[fault]: 3}
    assert (system["succeeded"], system["output_tokens"], system["ttft_ms"]["n"]) == (6, 24, 6)
    failed = [sample for sample in system["rounds"][0]["samples"] if "error" in sample]
    assert {sample["error"]["kind"] for sample in failed} == {KINDS[fault]}


def test_a_request_over_its_time_is_a_timeout(serve_mock: ServeMock) -> None:
    load = Load(concurrency=1, requests=2, warmup=0, output_tokens=2, timeout_s=0.2)
    mock = Mock(itl_s=30)
    assert run(serve_mock(mock), load)["systems"]["server"]["errors"] == {"timeout": 2}


def test_a_server_without_usage_has_its_chunks_counted(serve_mock: ServeMock) -> None:
    load = Load(concurrency=1, requests=2, warmup=0, output_tokens=3)
    system = run(serve_mock(Mock(usage=False)), load)["systems"]["server"]
    assert (system["output_tokens"], system["tokens_counted_by"]) == (6, "chunks")


def test_a_last_token_without_text_is_timed_like_the_others(serve_mock: ServeMock) -> None:
    mock = Mock(itl_s=0.05, last_without_text=True)
    load = Load(concurrency=1, requests=2, warmup=0, output_tokens=3)
    system = run(serve_mock(mock), load)["systems"]["server"]
    assert system["itl_ms"]["n"] == 4
    assert system["e2e_ms"]["min"] >= 100


def test_duration_ends_a_round(serve_mock: ServeMock) -> None:
    url = serve_mock(Mock())
    opened = run(url, Load(rate=50, arrival="constant", duration_s=0.5, warmup=0, output_tokens=1))
    assert opened["systems"]["server"]["requests"] == 25
    closed = run(url, Load(concurrency=2, duration_s=0.3, warmup=0, output_tokens=1))
    assert closed["systems"]["server"]["requests"] >= 2


def test_memory_comes_from_the_metrics_of_a_url(serve_mock: ServeMock) -> None:
    page = "process_resident_memory_bytes 12\nlathe_model_weight_bytes 34\n"
    load = Load(concurrency=1, requests=1, warmup=0, output_tokens=1)
    memory = run(serve_mock(Mock(metrics=page)), load)["systems"]["server"]["memory"]
    assert memory == {"peak_rss_bytes": 12, "model_weight_bytes": 34}
    assert run(serve_mock(Mock()), load)["systems"]["server"]["memory"] == {}


def test_what_cannot_be_loaded_is_one_sentence(serve_mock: ServeMock, closed_port: int) -> None:
    load = Load(concurrency=1, requests=1)
    with pytest.raises(UserError, match="No server answers at http"):
        run(f"http://127.0.0.1:{closed_port}", load)
    with pytest.raises(UserError, match="refuses the API key"):
        run(serve_mock(Mock(api_key="right")), load, setup=Setup(api_key="wrong"))
    for place in ("127.0.0.1:8000", "missing.gguf"):
        with pytest.raises(UserError, match="neither a URL nor a model"):
            run(place, load)


def test_a_gguf_file_is_served_as_a_directory_is(tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF")
    refusing = Serving(command=(sys.executable, "-c", "import sys; sys.exit('served ' + sys.argv[1])"))
    with pytest.raises(UserError, match=f"served {model}"):
        run(str(model), Load(concurrency=1, requests=1), setup=Setup(serving=refusing))


@pytest.mark.parametrize(
    "wrong",
    [{}, {"rate": 1.0, "concurrency": 1}, {"rate": 0.0}, {"rate": float("nan")}, {"concurrency": 0}],
)
def test_a_load_that_is_none(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError):
        Load(requests=1, **wrong)
    with pytest.raises(UserError):
        Load(concurrency=1)
