"""A server of a family: names, who answers, headers, metrics, cancellations and the end, in mid-switch."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import openai
import pytest

from lathe.artefact.errors import UserError
from lathe.artefact.family import read_family
from lathe.serving.backend import GenerationRequest
from lathe.serving.launch.engines.llamacpp import serve_llamacpp
from lathe.serving.launch.family import check_alike
from lathe.serving.launch.local import serve_locally
from lathe.serving.options import ServeOptions
from lathe.serving.served_model import open_served_model
from lathe.serving.switching.chooser import Choice, Chooser
from support.tiny_family import SMALL, WIDE, RunningFamily, save_family
from support.tiny_server import Running, running, started


class Scripted(Chooser):
    """Chooses what a test says."""

    def __init__(self) -> None:
        self.subnet = WIDE
        self.seen: list[int] = []

    def choose(self, requests: Sequence[GenerationRequest]) -> Choice:
        self.seen += [len(request.prompt) for request in requests]
        return Choice(self.subnet, "by script")


@pytest.fixture(scope="module")
def family_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_family(tmp_path_factory.mktemp("family"))


@pytest.fixture(scope="module")
def chooser() -> Scripted:
    return Scripted()


@pytest.fixture(scope="module")
def server(family_dir: Path, chooser: Scripted) -> Iterator[RunningFamily]:
    with started(RunningFamily(family_dir, chooser, {}, max_batch=4, max_queue=16)) as server:
        yield server


def alone(family_dir: Path, name: str) -> str:
    with running(family_dir / "plans" / name) as server:
        return str(server.complete(max_tokens=12, temperature=0)["choices"][0]["text"])


def test_every_subnet_is_listed_and_found(server: RunningFamily) -> None:
    names = ["family", f"family:{WIDE}", f"family:{SMALL}"]
    listed = httpx.get(f"{server.url}/v1/models").json()["data"]
    assert [card["id"] for card in listed] == names
    for name in names:
        assert httpx.get(f"{server.url}/v1/models/{name}").json()["id"] == name


def test_an_unknown_subnet_is_refused_with_what_there_is(server: RunningFamily) -> None:
    answer = server.post("completions", model="family:3x", prompt="The")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"
    assert answer.json()["error"]["message"].endswith(
        f"there is no model 'family:3x'; this server has 'family', 'family:{WIDE}', 'family:{SMALL}'"
    )


def test_a_named_subnet_answers_as_it_does_alone(server: RunningFamily, family_dir: Path) -> None:
    for name in (WIDE, SMALL):
        answer = server.post(
            "completions", model=f"family:{name}", prompt="The quick", max_tokens=12, temperature=0
        )
        document = answer.json()
        assert document["choices"][0]["text"] == alone(family_dir, name)
        assert document["model"] == f"family:{name}"
        digest = server.service.subnets[name].artefact.digest
        assert document["system_fingerprint"] == f"lathe-{digest}"
        assert answer.headers["x-lathe-subnet"] == name
        assert answer.headers["x-lathe-subnet-reason"] == "asked for"


def test_the_name_of_the_whole_is_answered_by_the_chosen_one(
    server: RunningFamily, chooser: Scripted
) -> None:
    for name in (WIDE, SMALL):
        chooser.subnet = name
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client:
            raw = client.chat.completions.with_raw_response.create(
                model="family", messages=[{"role": "user", "content": "fox"}], max_tokens=3
            )
            assert raw.parse().model == f"family:{name}"
            assert raw.headers["x-lathe-subnet-reason"] == "by script"
            stream = client.chat.completions.create(
                model="family", messages=[{"role": "user", "content": "fox"}], max_tokens=3, stream=True
            )
            assert {chunk.model for chunk in stream} == {f"family:{name}"}
            response = client.responses.create(model="family", input="fox", max_output_tokens=3)
            assert response.model == f"family:{name}"
    assert min(chooser.seen) > 0  # it gets the prompts


def test_metrics_are_by_subnet(server: RunningFamily, chooser: Scripted) -> None:
    def count(name: str, subnet: str, **labels: str) -> float:
        return server.counter(name, model=f"family:{subnet}", **labels)

    chooser.subnet = SMALL
    ok = {"endpoint": "completions", "outcome": "ok"}
    before = [count("lathe_requests_total", name, **ok) for name in (WIDE, SMALL)]
    tokens = count("lathe_generation_tokens_total", SMALL)
    server.complete(max_tokens=5, ignore_eos=True)
    assert [count("lathe_requests_total", name, **ok) for name in (WIDE, SMALL)] == [before[0], before[1] + 1]
    assert count("lathe_generation_tokens_total", SMALL) == tokens + 5
    assert count("lathe_time_per_output_token_seconds_count", SMALL) > 0
    assert count("lathe_model_weight_bytes", SMALL) < count("lathe_model_weight_bytes", WIDE)
    assert server.counter("lathe_resident_memory_bytes") > 0
    own = [server.counter("lathe_subnet_weight_bytes", subnet=name, part="own") for name in (WIDE, SMALL)]
    assert own[0] > own[1] > 0
    assert server.counter("lathe_family_weight_bytes") == sum(own)
    invalid = {"endpoint": "completions", "outcome": "invalid"}
    refused = count("lathe_requests_total", SMALL, **invalid)
    assert server.post("completions", prompt="x", max_tokens=10**6).status_code == 400
    assert count("lathe_requests_total", SMALL, **invalid) == refused + 1


def test_aliases_have_subnets_too(family_dir: Path) -> None:
    made = RunningFamily(family_dir, Scripted(), {}, max_batch=2, served_model_names=("prod", "old"))
    with started(made) as server:
        names = ["prod", "old", *(f"{base}:{one}" for base in ("prod", "old") for one in (WIDE, SMALL))]
        assert [card["id"] for card in httpx.get(f"{server.url}/v1/models").json()["data"]] == names
        document = server.post("completions", model=f"old:{SMALL}", prompt="x", max_tokens=2).json()
        assert document["model"] == f"prod:{SMALL}"


def test_fifty_cancellations_in_mid_switch_leave_nothing_behind(
    server: RunningFamily, chooser: Scripted
) -> None:
    def half(number: int) -> None:
        chooser.subnet = (WIDE, SMALL)[number % 2]
        body = {
            "model": "family",
            "prompt": "The quick",
            "max_tokens": 200,
            "ignore_eos": True,
            "stream": True,
        }
        with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=30) as answer:
            if answer.status_code == 429:
                return
            for _ in zip(range(1 + number % 3), answer.iter_lines(), strict=False):
                pass

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(half, range(50)))
    backend, pause = server.service.backend, threading.Event()
    for _ in range(500):
        if not (backend.num_running or backend.num_waiting):
            break
        pause.wait(0.01)
    assert (backend.num_running, backend.num_waiting, backend.kv_reserved_bytes) == (0, 0, 0)
    assert backend.healthy
    chooser.subnet = WIDE
    assert server.complete(max_tokens=3, ignore_eos=True)["usage"]["completion_tokens"] == 3


def test_a_stop_in_mid_switch_finishes_what_runs_on_every_subnet(family_dir: Path) -> None:
    chooser = Scripted()
    with started(RunningFamily(family_dir, chooser, {"drain_timeout": 20.0}, max_batch=4)) as server:
        for runner in server.runners:
            runner.gate.clear()
        with ThreadPoolExecutor(6) as pool:
            asked = []
            for number in range(6):
                chooser.subnet = (WIDE, SMALL)[number % 2]
                asked.append(pool.submit(server.complete, max_tokens=8, ignore_eos=True))
                pause = threading.Event()
                backend = server.service.backend
                for _ in range(500):
                    if backend.num_running + backend.num_waiting == number + 1:
                        break
                    pause.wait(0.01)
            server.stop()
            for _ in range(500):
                if server.service.draining:
                    break
                pause.wait(0.01)
            assert server.post("completions", prompt="x").status_code == 503
            for runner in server.runners:
                runner.gate.set()
            answers = [one.result(30) for one in asked]
    assert [answer["usage"]["completion_tokens"] for answer in answers] == [8] * 6
    assert [answer["model"] for answer in answers] == [f"family:{WIDE}", f"family:{SMALL}"] * 3


def test_a_family_is_for_one_engine_and_a_single_model_has_no_switch(
    family_dir: Path, server: Running
) -> None:
    with pytest.raises(UserError, match=rf"is a family of subnets.*plans/{WIDE}"):
        open_served_model(family_dir)
    for given in ({"switch": "slo"}, {"slo": "tpot=3ms"}):
        options = ServeOptions(out=family_dir, **given)
        with pytest.raises(UserError, match="is one model, and --.* is for a family"):
            serve_locally("onnx", lambda *_: pytest.fail("opened"), family_dir / "plans" / WIDE, options)
        with pytest.raises(UserError, match="does not take --"):
            serve_llamacpp(family_dir, options)


def test_subnets_with_other_tokens_are_no_family(family_dir: Path, artefact_dir: Path) -> None:
    family = read_family(family_dir)
    found = {plan.name: open_served_model(family.directory(plan)) for plan in family.plans}
    check_alike(found)
    other = open_served_model(artefact_dir)
    check_alike({**found, "other": other})
    with pytest.raises(UserError, match="differ in eos"):
        check_alike({**found, "other": replace(other, eos=frozenset({7}))})
