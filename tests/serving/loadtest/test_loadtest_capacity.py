"""Searches on a mock that slows down by a known amount for every user. A token takes time without others,
too: else whoever is alone for a moment is done in it, and users never meet."""

import json
from collections.abc import Callable

import pytest
import typer
from typer.testing import CliRunner

from lathe.artefact.errors import UserError
from lathe.serving.cli.loadtest import loadtest
from lathe.serving.loadtest import testbed
from lathe.serving.loadtest.find_capacity import find_capacity, steady_state
from lathe.serving.loadtest.load import Load
from lathe.serving.loadtest.measure import Round
from lathe.serving.loadtest.mock import Mock
from lathe.serving.loadtest.sample import Sample
from lathe.serving.loadtest.slo import parse_slo

ServeMock = Callable[[Mock], str]

app = typer.Typer()
app.command()(loadtest)
LOAD = Load(concurrency=1, requests=10, warmup=0, output_tokens=4)


def test_the_most_users_of_two_systems_are_found(serve_mock: ServeMock) -> None:
    places = {
        "dense": serve_mock(Mock(itl_s=0.01, itl_each_s=0.036)),
        "subnet": serve_mock(Mock(itl_s=0.01, itl_each_s=0.018)),
    }
    found = find_capacity(places, LOAD, parse_slo("tpot=100ms,ttft=2s", "80%"), rounds=2)
    dense, subnet = found["systems"]["dense"], found["systems"]["subnet"]
    assert (dense["most"], dense["lowest_failing"]) == (3, 4)
    assert subnet["most"] in (5, 6)
    assert found["ratio"] == pytest.approx(subnet["most"] / 3, abs=1e-4)
    for system in (dense, subnet):
        assert [level["passed"] for level in system["levels"]] == [
            level["level"] <= system["most"] for level in system["levels"]
        ]
    level = dense["levels"][0]
    assert (level["level"], level["judged"], level["requests"]) == (1, 20, 24)
    assert len(level["rounds"][0]["samples"]) == 12
    assert found["settings"]["slo"] == {"tpot_ms": 100.0, "ttft_ms": 2000.0, "share": 0.8}


def test_no_prompt_is_sent_twice(serve_mock: ServeMock, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds, real = [], testbed.Testbed.round

    async def noted(self: testbed.Testbed, name: str, load: Load, seed: int) -> Round:
        seeds.append(seed)
        return await real(self, name, load, seed)

    monkeypatch.setattr(testbed.Testbed, "round", noted)
    find_capacity({"server": serve_mock(Mock(most_running=2))}, LOAD, parse_slo("tpot=5s", "99%"), rounds=2)
    assert len(seeds) == len(set(seeds)) > 2


def test_refused_requests_are_a_limit_too(serve_mock: ServeMock) -> None:
    places = {"server": serve_mock(Mock(itl_s=0.01, most_running=2))}
    system = find_capacity(places, LOAD, parse_slo("tpot=5s"), rounds=1)["systems"]["server"]
    assert (system["most"], system["lowest_failing"]) == (2, 3)
    assert system["levels"][-1]["errors"].keys() == {"http_429"}


def test_the_highest_rate_is_found(serve_mock: ServeMock) -> None:
    load = Load(rate=20, arrival="constant", requests=16, warmup=0, output_tokens=1)
    places = {"server": serve_mock(Mock(ttft_s=0.2, most_running=8))}
    system = find_capacity(places, load, parse_slo("e2e=5s"), rounds=1)["systems"]["server"]
    assert 30 <= system["most"] <= 40
    assert system["most"] < system["lowest_failing"] <= system["most"] / 0.95 + 0.01


def test_the_first_and_the_last_request_of_each_user_are_not_judged() -> None:
    samples = [Sample(float(i)) for i in range(12)]
    assert [s.sent_s for s in steady_state(samples, LOAD, 3)] == [3, 4, 5, 6, 7, 8]
    assert steady_state(samples[:4], LOAD, 3) == []
    assert steady_state(samples, Load(rate=1, requests=12), 3) == samples


def test_the_command_answers(serve_mock: ServeMock) -> None:
    url = serve_mock(Mock(itl_s=0.02, itl_each_s=0.05))
    small = ["--requests", "8", "--warmup", "0", "--output-tokens", "4", "--prompt-tokens", "8"]
    wanted = ["--slo", "tpot=95ms", "--slo-share", "80%"]
    told = CliRunner().invoke(app, [url, *small, *wanted])
    assert told.exit_code == 0, told.output
    assert "server: 2 users within the SLO; 3 users are too many" in told.stdout
    assert "TPOT <= 95 ms for 80% of the requests" in told.stdout
    assert "server: 3 users," in told.stderr
    document = json.loads(CliRunner().invoke(app, [url, *small, *wanted, "--json"]).stdout)
    assert (document["format"], document["systems"]["server"]["most"]) == ("lathe-loadtest-slo/1", 2)


def test_a_server_that_fails_at_once_ends_in_failure(serve_mock: ServeMock) -> None:
    told = CliRunner().invoke(app, [serve_mock(Mock(fault="500")), "--slo", "ttft=1s", "--requests", "3"])
    assert told.exit_code == 1
    assert "requests failed at 1 user (" in str(told.exception)
    assert "not even 1 user within the SLO" in told.stdout


@pytest.mark.parametrize("wrong", [["--requests", "0"], ["--slo-share", "0"], ["--rounds", "0"]])
def test_options_that_search_nothing_are_refused(wrong: list[str]) -> None:
    told = CliRunner().invoke(app, ["http://127.0.0.1:9", "--slo", "tpot=1ms", *wrong])
    assert isinstance(told.exception, UserError)
    assert "No server answers" not in str(told.exception)
