"""What guidellm is asked for and what is made of its report; `make test-guidellm` runs it for real."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from lathe.artefact.errors import UserError
from lathe.serving.cli.loadtest import loadtest
from lathe.serving.loadtest.client import Target
from lathe.serving.loadtest.engine import engines, find_load_tester
from lathe.serving.loadtest.engines.guidellm import GuideLLM, read_report, scenario
from lathe.serving.loadtest.load import Load
from lathe.serving.loadtest.measure import summary
from lathe.serving.loadtest.mock import Mock
from lathe.serving.loadtest.trace import RecordedRequest, Trace

ServeMock = Callable[[Mock], str]
REPORT = Path(__file__).parent / "guidellm_report.json"
LOAD = Load(concurrency=2, requests=3, output_tokens=4)

app = typer.Typer()
app.command()(loadtest)


def program(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_a_report_of_guidellm_becomes_our_round() -> None:
    """guidellm 0.8.1 sent 3 requests to the mock (30 ms to the first token, 20 ms a token); one failed."""
    one = read_report(REPORT, LOAD)
    found = summary([one])
    assert (found["requests"], found["errors"]) == (3, {"http_500": 1})
    assert (found["output_tokens"], found["asked_tokens"], found["prompt_tokens"]) == (8, 8, 16)
    theirs = json.loads(REPORT.read_text())["benchmarks"][0]["requests"]["successful"]
    theirs.sort(key=lambda their: their["request_start_time"])
    for ours, their in zip([s for s in one.samples if s.ok], theirs, strict=True):
        assert 1e3 * ours.chunk_s[0] == pytest.approx(their["time_to_first_token_ms"])
    tpots = [their["inter_token_latency_ms"] for their in theirs]
    assert found["tpot_ms"]["mean"] == pytest.approx(sum(tpots) / 2, abs=1e-3)
    assert found["tpot_ms"]["min"] >= 20
    assert found["itl_ms"] is None
    assert found["client_cpu_share"] is None
    assert one.own_summary["inter_token_latency_ms"]["mean"] == pytest.approx(
        found["tpot_ms"]["mean"], abs=1e-3
    )


def test_requests_that_guidellm_left_out_are_told() -> None:
    more = Load(concurrency=2, requests=5, output_tokens=4)
    assert read_report(REPORT, more).stopped_early == "guidellm left out 2 of 5 requests"


@pytest.mark.parametrize("text", ["", "[]", '{"benchmarks": []}', '{"benchmarks": [{"metrics": {}}]}'])
def test_another_report_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(UserError, match=r"is not that of 0\.8"):
        read_report(tmp_path / "report.json", LOAD)


def test_guidellm_sends_our_prompts_to_the_same_route(tmp_path: Path) -> None:
    target = Target("http://127.0.0.1:1", "m", "key")
    closed = scenario(target, LOAD, 7, tmp_path)["spec"]
    assert closed["profile"] == {"kind": "concurrent", "streams": [2]}
    assert closed["constraints"] == [{"kind": "max_requests", "count": 3}]
    backend = {"target": target.url, "model": "m", "api_key": "key", "request_format": "/v1/completions"}
    assert backend.items() <= closed["backend"].items()
    opened = scenario(target, Load(rate=2.5, requests=3, endpoint="chat"), 7, tmp_path)["spec"]
    assert opened["profile"] == {"kind": "poisson", "rate": [2.5]}
    assert opened["backend"]["request_format"] == "/v1/chat/completions"


@pytest.mark.parametrize(
    "load",
    [
        Load(concurrency=1, duration_s=3),
        Load(rate=1, ramp_to=2, duration_s=3),
        Load(trace=Trace(Path("t"), (RecordedRequest(0.0, 1, 1),))),
    ],
)
def test_a_load_that_guidellm_cannot_send_is_refused(load: Load) -> None:
    with pytest.raises(UserError, match="--engine guidellm sends"):
        GuideLLM("guidellm", "0.8.1").check(load)


def test_guidellm_has_to_be_there_and_of_the_known_series(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not at .*absent.*pip install 'guidellm==0\.8"):
        find_load_tester("guidellm", str(tmp_path / "absent"))
    old = program(tmp_path / "old", "echo guidellm version: 0.7.0")
    with pytest.raises(UserError, match=r"is not guidellm 0\.8 but: guidellm version: 0\.7\.0"):
        find_load_tester("guidellm", old)
    new = program(tmp_path / "new", "echo guidellm version: 0.8.3")
    assert find_load_tester("guidellm", new).name == "guidellm 0.8.3"
    with pytest.raises(UserError, match="Add --engine guidellm"):
        find_load_tester("lathe", new)
    with pytest.raises(UserError, match="there is no load tester `x`"):
        find_load_tester("x")
    assert engines.known() == ["guidellm", "lathe"]


def test_a_guidellm_that_fails_is_quoted(serve_mock: ServeMock, tmp_path: Path) -> None:
    failing = '[ "$1" = --version ] && echo guidellm version: 0.8.1 && exit\necho no such option >&2; exit 2'
    path = program(tmp_path / "failing", failing)
    options = ["--engine", "guidellm", "--guidellm", path, "--requests", "2", "--warmup", "0"]
    told = CliRunner().invoke(app, [serve_mock(Mock()), *options])
    assert isinstance(told.exception, UserError)
    assert "guidellm 0.8.1 ended with status 2: no such option" in str(told.exception)
