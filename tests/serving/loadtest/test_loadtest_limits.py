"""A given load held against limits, and who answered it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from lathe.serving.loadtest.answer import AnswerReader
from lathe.serving.loadtest.answered import answered_json
from lathe.serving.loadtest.compare import run
from lathe.serving.loadtest.load import Load
from lathe.serving.loadtest.measure import Round
from lathe.serving.loadtest.mock import Mock
from lathe.serving.loadtest.options import LoadTestOptions
from lathe.serving.loadtest.prompts import PromptChoice
from lathe.serving.loadtest.report import print_report
from lathe.serving.loadtest.sample import Sample
from lathe.serving.loadtest.slo import parse_slo
from lathe.serving.loadtest.testbed import Setup

ServeMock = Callable[[Mock], str]


def sample(model: str | None, ttft: float, tpot: float, error: str | None = None) -> Sample:
    chunks = [ttft, ttft + tpot, ttft + 2 * tpot]
    return Sample(0.0, chunk_s=chunks, prompt_tokens=1, output_tokens=3, model=model, error_kind=error)


def test_shares_are_of_all_requests_and_by_who_answered() -> None:
    rounds = [
        Round([sample("out:1.2x", 0.1, 0.02), sample("out:2x", 0.1, 0.04)], None),
        Round([sample("out:2x", 0.1, 0.02), sample(None, 0.1, 0.02, "http_429")], None),
    ]
    found = answered_json(rounds, parse_slo("tpot=30ms,ttft=0.2s"))
    assert found["slo"]["within"] == 0.5
    assert found["slo"]["judged"] == 4
    assert found["slo"]["within_each"] == {"tpot": 0.5, "ttft": 0.75}
    assert found["answered_by"] == {
        "out:1.2x": {"requests": 1, "output_tokens": 3, "within": 1.0},
        "out:2x": {"requests": 2, "output_tokens": 6, "within": 0.5},
    }
    assert "slo" not in answered_json(rounds, None)


def test_the_model_is_the_one_that_the_events_name() -> None:
    found = Sample(0.0)
    reader = AnswerReader(found)
    reader.event('{"model": "out:2x", "choices": [{"text": "a", "finish_reason": null}]}', 0.1)
    reader.event('{"model": "out:2x", "choices": [{"text": "b", "finish_reason": "length"}]}', 0.2)
    assert found.model == "out:2x"


@pytest.mark.parametrize(("slo", "share"), [("ttft=5s", "100.0%"), ("ttft=1ms", "0.0%")])
def test_a_ramp_is_held_against_limits(serve_mock: ServeMock, slo: str, share: str) -> None:
    load = Load(rate=20.0, ramp_to=60.0, duration_s=0.3, warmup=0, output_tokens=3)
    mock = Mock(ttft_s=0.01, itl_s=0.001)
    whole = run(serve_mock(mock), load, setup=Setup(PromptChoice(tokens=5)), slo=parse_slo(slo))
    system = whole["systems"]["server"]
    assert system["requests"] > 6
    assert f"{system['slo']['within']:.1%}" == share
    assert system["answered_by"] == {}  # the mock names no model
    assert whole["settings"]["slo"]["share"] == 0.95
    with (console := Console(width=200)).capture() as shown:
        print_report(whole, console)
    line = next(line for line in shown.get().splitlines() if "within limits" in line)
    assert share in line


def test_what_has_an_end_of_its_own_is_not_searched(tmp_path: Path) -> None:
    def options(**given: object) -> LoadTestOptions:
        return LoadTestOptions(target="http://127.0.0.1:1", **given)  # type: ignore[arg-type]

    assert options(slo="tpot=30ms").searches
    assert not options(slo="tpot=30ms", rate=1.0, duration=3.0).searches
    assert not options(slo="tpot=30ms", trace=tmp_path / "t.jsonl").searches
    assert options(slo="tpot=30ms", rate=1.0, duration=3.0).round_count == 1
