"""The server that is told what to say, and when a suite of clients counts as broken."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.conformance.clients import scripted, suites
from lathe.serving.decoding.tokenizer import Tokenizer
from lathe.serving.served_model import open_served_model
from support.tiny_server import NAME, Running, running, save_artefact

CLIENT = """
import json, os, urllib.request
from pathlib import Path

def test_one():
    body = {"model": os.environ["LATHE_MODEL"], "prompt": "The", "max_tokens": 3, "ignore_eos": True}
    url, kind = os.environ["LATHE_URL"] + "/v1/completions", {"content-type": "application/json"}
    asked = urllib.request.Request(url, json.dumps(body).encode(), kind)
    usage = json.load(urllib.request.urlopen(asked))["usage"]
    told = {"requests": 1, "prompt": usage["prompt_tokens"], "completion": usage["completion_tokens"] + MORE}
    Path(os.environ["LATHE_USAGE"]).write_text(json.dumps(told))

def test_two():
    assert RIGHT, "the delta has no index"
"""


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_artefact(tmp_path_factory.mktemp("artefact"))


@pytest.fixture(scope="module")
def server(artefact: Path) -> Iterator[Running]:
    with running(artefact) as server:
        yield server


@pytest.mark.parametrize(
    ("more", "right", "tests", "complaint"),
    [
        (0, True, 2, None),
        (1, True, 2, "the client was told of .*'completion': 4.* the server counted .*'completion': 3"),
        (0, False, 2, "the delta has no index"),
        (0, True, 3, ""),
    ],
)
def test_a_wrong_answer_a_wrong_count_and_a_missing_test_break_a_suite(
    server: Running,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    more: int,
    right: bool,
    tests: int,
    complaint: str | None,
):
    (tmp_path / "check_it.py").write_text(CLIENT.replace("MORE", str(more)).replace("RIGHT", str(right)))
    monkeypatch.setattr(suites, "HERE", tmp_path)
    monkeypatch.setitem(suites.PACKAGES, "pytest", ("check_it.py", tests))
    row = suites.client_suite(Path(sys.executable), "pytest", server.url, NAME, tmp_path)
    assert row["held"] is (complaint is None)
    assert row["suite"].startswith("pytest ")
    if complaint:
        (told,) = row["others"].values()
        assert re.search(complaint, told)


def test_the_script_of_a_prompt_is_said_whoever_else_is_served(artefact: Path):
    opened = open_served_model(artefact)
    tokenizer = Tokenizer(opened.path)
    runner = scripted.ScriptedRunner(opened.graph, max_batch=3, max_length=400, tokenizer=tokenizer)
    prompts = ["[[weather]]", "no script", "[[weather]]" + scripted.RESULT * 2]
    said: list[list[int]] = [[] for _ in prompts]
    for slot, prompt in enumerate(prompts):
        tokens = tokenizer.encode(prompt)
        runner.prefill(slot, tokens[:2])
        said[slot].append(int(runner.prefill(slot, tokens[2:])[-1].argmax()))
    runner.move(2, 1)
    said[1] = said.pop()
    for _ in range(90):
        rows = runner.decode(np.array([one[-1] for one in said]))
        for one, row in zip(said, rows, strict=True):
            one.append(int(row.argmax()))
    for one, script in zip(said, (0, 2), strict=True):
        assert tokenizer.decode(one[: one.index(1)]) == scripted.SCRIPTS["[[weather]]"][script]
