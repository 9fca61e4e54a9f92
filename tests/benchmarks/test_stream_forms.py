"""Every form of stream, read with the server's times in place of a clock, and once over a real connection."""

from __future__ import annotations

import pytest

from benchmarks.loadtest.forms import FORMS
from lathe.serving.loadtest.answer import AnswerReader
from lathe.serving.loadtest.measure import Round, summary
from lathe.serving.loadtest.sample import RequestError, Sample
from lathe.serving.loadtest.slo import parse_slo
from lathe.serving.loadtest.sse import EventReader

TTFT_S, PACE_S, TOKENS = 0.4, 0.02, 64


def arrival(number: int) -> float:
    """Of a piece that is sent when so many tokens are generated."""
    return 0.01 if number == 0 else TTFT_S + (number - 1) * PACE_S


def read(name: str, cut: int) -> Sample:
    """A packet of `cut` bytes at most arrives with the piece that it is of."""
    sample = Sample(sent_s=0.0, asked_tokens=TOKENS)
    events, answer = EventReader(), AnswerReader(sample)
    for number, raw in FORMS[name].pieces(TOKENS):
        for at in range(0, len(raw), cut):
            for data in events.feed(raw[at : at + cut]):
                answer.event(data, arrival(number))
    answer.finish()
    return sample


@pytest.mark.parametrize("cut", [7, 10_000])
@pytest.mark.parametrize("name", FORMS)
def test_l1_every_form_is_read_as_its_server_means_it(name: str, cut: int) -> None:
    form = FORMS[name]
    if form.error:
        with pytest.raises(RequestError) as failed:
            read(name, cut)
        assert failed.value.kind == form.error
        return
    sample = read(name, cut)
    first = next(number for number, raw in form.pieces(TOKENS) if number)
    found = summary([Round([sample], None)])
    assert sample.output_tokens == TOKENS
    assert sample.chunk_s[0] == pytest.approx(arrival(first))
    if form.timed:
        assert found["tpot_ms"]["p50"] == pytest.approx(1e3 * PACE_S, rel=0.02)
        assert parse_slo("tpot=21ms,ttft=470ms,e2e=3s").broken(sample) == []
        assert parse_slo("tpot=15ms").broken(sample) == ["tpot"]
    else:
        assert (found["tpot_ms"], found["untimed"]) == (None, 1)
        assert parse_slo("tpot=100s").broken(sample) == ["tpot"]


def test_l1_reasoning_has_its_own_time_to_the_answer() -> None:
    for name in ("reasoning", "reasoning_content"):
        assert read(name, 10_000).answer_s == pytest.approx(arrival(TOKENS * 3 // 4 + 1))
    for name in ("chat", "reasoning only", "tool calls"):
        assert read(name, 10_000).answer_s is None
