"""Our scheduler over llama.cpp: answers do not depend on company, slots are freed, failures are told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("llama_cpp")

from test_serve_scheduler import Reader, Silent, request, until

from conftest import TOKENS
from lathe.artefact.llamacpp.runner import LlamaCppRunner
from lathe.serving.scheduler.admission import Admission
from lathe.serving.scheduler.scheduler import Scheduler


@pytest.fixture
def scheduler(files: dict[str, Path]) -> Iterator[Scheduler]:
    runner = LlamaCppRunner(files["Q8_0"], max_batch=3, max_length=500, threads=1)
    scheduler = Scheduler(
        runner, lambda t: b"%d " % t, eos=[0], admission=Admission(runner.max_batch + 30), observer=Silent()
    )
    scheduler.warm_up()
    yield scheduler
    scheduler.close()


def test_answers_do_not_depend_on_company(scheduler: Scheduler) -> None:
    jobs = [
        request(*(7 * i % TOKENS for i in range(1 + n * 97 % 290)), n + 1, max_tokens=1 + n * 7 % 20)
        for n in range(20)
    ]
    expected = [Reader(scheduler, job).text() for job in jobs]
    assert [reader.text() for reader in [Reader(scheduler, job) for job in jobs]] == expected


def test_log_probabilities_of_a_long_prompt(scheduler: Scheduler) -> None:
    tokens = [3 * i % TOKENS for i in range(290)]
    read = Reader(scheduler, request(*tokens, max_tokens=2, logprobs=1, prompt_logprobs=True)).rest()
    assert [entry.token for entry in read[0].prompt_logprobs] == tokens


def test_a_cancelled_sequence_leaves_its_slot(scheduler: Scheduler) -> None:
    expected = Reader(scheduler, request(2, max_tokens=30)).text()
    long = [Reader(scheduler, request(n + 1, max_tokens=400)) for n in range(3)]
    for reader in long:
        reader.next()
    long[0].handle.cancel()
    long[1].handle.cancel()
    assert Reader(scheduler, request(2, max_tokens=30)).text() == expected
    long[2].handle.cancel()
    until(lambda: scheduler.num_running == 0)
    assert scheduler.kv_cache_usage == 0


def test_a_prompt_that_does_not_fit_fails_alone(scheduler: Scheduler) -> None:
    expected = Reader(scheduler, request(2, max_tokens=30)).text()
    good = Reader(scheduler, request(2, max_tokens=30))
    bad = Reader(scheduler, request(*[1] * 501))
    assert bad.rest()[-1].error
    assert good.text() == expected
    assert scheduler.healthy
