"""Which chunks of a stream carry tokens, by events with times given, without a server or a clock."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lathe.serving.loadtest.answer import AnswerReader
from lathe.serving.loadtest.measure import Round, summary, tpot_s
from lathe.serving.loadtest.sample import RequestError, Sample
from lathe.serving.loadtest.slo import parse_slo

Timed = tuple[float, dict[str, Any] | str]


def read(*events: Timed, asked: int = 40) -> Sample:
    sample = Sample(sent_s=0.0, asked_tokens=asked)
    reader = AnswerReader(sample)
    for arrived, event in events:
        reader.event(event if isinstance(event, str) else json.dumps(event), arrived)
    reader.finish()
    return sample


def delta(arrived: float, **fields: Any) -> Timed:
    return arrived, {"choices": [{"index": 0, "delta": fields, "finish_reason": None}]}


def usage(arrived: float, tokens: int, **details: Any) -> Timed:
    return arrived, {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": tokens, **details}}


def end(arrived: float) -> Timed:
    return arrived, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}


OPENING = delta(0.01, role="assistant", content="", refusal=None)
DONE: Timed = (9.0, "[DONE]")

CARRY: dict[str, dict[str, Any]] = {
    "content": {"content": "a"},
    "white space": {"content": " "},
    "new line": {"content": "\n"},
    "reasoning": {"reasoning": "a"},
    "reasoning_content": {"reasoning_content": "a", "content": None},
    "both reasoning fields": {"reasoning": "a", "reasoning_content": "a"},
    "reasoning_details": {"reasoning_details": [{"type": "reasoning.text", "text": "a"}]},
    "thinking part": {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "a"}]}]},
    "text part": {"content": [{"type": "text", "text": "a"}]},
    "refusal": {"refusal": "a", "content": None},
    "arguments": {"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]},
    "name": {
        "tool_calls": [
            {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}
        ]
    },
    "custom tool": {"tool_calls": [{"index": 0, "type": "custom", "custom": {"input": "a"}}]},
    "function_call": {"function_call": {"arguments": "a"}},
    "transcript": {"audio": {"id": "x", "transcript": "a"}},
    "with the role": {"role": "assistant", "content": "a"},
    "unheard of": {"musings": "a"},
}
CARRY_NOT: dict[str, dict[str, Any]] = {
    "empty": {},
    "role": {"role": "assistant"},
    "role and empty content": {"role": "assistant", "content": ""},
    "role and empty everything": {
        "role": "assistant",
        "content": "",
        "refusal": "",
        "reasoning": "",
        "tool_calls": [],
    },
    "null content": {"content": None},
    "null all": {"content": None, "tool_calls": None, "function_call": None},
    "empty parts": {"content": [{"type": "text", "text": ""}]},
    "empty call": {
        "tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"arguments": ""}}]
    },
    "audio without words": {"audio": {"id": "x", "expires_at": 5}},
}


@pytest.mark.parametrize("name", CARRY)
def test_l1_every_text_but_the_role_stands_for_tokens(name: str) -> None:
    chunks = [delta(0.5 + 0.25 * i, **CARRY[name]) for i in range(5)]
    sample = read(OPENING, *chunks, end(1.5), usage(1.5, 5), DONE)
    assert sample.chunk_s == [0.5, 0.75, 1.0, 1.25, 1.5]
    assert tpot_s(sample) == 0.25


@pytest.mark.parametrize("name", CARRY_NOT)
def test_l2_what_has_no_text_is_no_first_token(name: str) -> None:
    sample = read(
        delta(0.01, **CARRY_NOT[name]), delta(0.5, content="a"), delta(0.75, content="b"), usage(1, 2), DONE
    )
    assert sample.chunk_s == [0.5, 0.75]
    assert tpot_s(sample) == 0.25


@pytest.mark.parametrize("empty", ["", None])
def test_l2_in_plain_completions_too(empty: str | None) -> None:
    events = [
        (0.01 * i, {"choices": [{"text": text, "finish_reason": None}]})
        for i, text in enumerate([empty, empty, " a", "b"], 1)
    ]
    assert read(*events, usage(1, 2), DONE).chunk_s == [0.03, 0.04]


def test_l1_thirty_tokens_of_reasoning_and_ten_of_the_answer() -> None:
    """The case as it was found: TTFT was that of the answer, and TPOT a quarter."""
    thoughts = [delta(0.05 + 0.02 * i, reasoning="a") for i in range(30)]
    answers = [delta(0.65 + 0.02 * i, content="a") for i in range(10)]
    sample = read(OPENING, *thoughts, *answers, end(0.83), usage(0.83, 40), DONE)
    assert sample.chunk_s[0] == 0.05
    assert sample.answer_s == 0.65
    assert tpot_s(sample) == pytest.approx(0.02)
    found = summary([Round([sample], None)])
    assert (found["ttft_ms"]["p50"], found["ttfo_ms"]["p50"], found["untimed"]) == (50, 650, 0)


def test_l1_all_of_it_reasoning() -> None:
    sample = read(
        *[delta(0.05 + 0.02 * i, reasoning_content="a") for i in range(40)], end(0.9), usage(0.9, 40), DONE
    )
    assert sample.answer_s is None
    assert tpot_s(sample) == pytest.approx(0.02)
    assert parse_slo("tpot=5ms").broken(sample) == ["tpot"]


HIDDEN: dict[str, list[Timed]] = {
    "tokens that were never streamed": [delta(0.6 + 0.02 * i, content="a") for i in range(10)]
    + [usage(1, 40)],
    "as the server says": [delta(0.6 + 0.02 * i, content="a") for i in range(30)]
    + [usage(1, 40, completion_tokens_details={"reasoning_tokens": 10})],
    "one chunk": [delta(0.6, content="all of it"), usage(0.6, 40)],
    "all at one moment": [delta(0.6, content="a") for _ in range(40)] + [usage(0.6, 40)],
    "one chunk without usage": [delta(0.6, content="all of it")],
    "in two heaps": [delta(0.6, content="a") for _ in range(20)]
    + [delta(0.6001, content="a") for _ in range(20)]
    + [usage(1, 40)],
    "a count of each chunk by itself": [
        (0.6 + 0.02 * i, {"choices": [{"delta": {"content": "a"}}], "usage": {"completion_tokens": 1}})
        for i in range(40)
    ],
    "the same count in every chunk": [
        (0.6 + 0.02 * i, {"choices": [{"delta": {"content": "a"}}], "usage": {"completion_tokens": 40}})
        for i in range(10)
    ],
}


@pytest.mark.parametrize("name", HIDDEN)
def test_l1_more_tokens_than_chunks_can_time_have_no_tpot_and_keep_no_limit(name: str) -> None:
    sample = read(*HIDDEN[name], end(1.0), DONE)
    assert sample.untimed
    assert tpot_s(sample) is None
    assert parse_slo("tpot=1000s,ttft=10s").broken(sample) == ["tpot"]
    found = summary([Round([sample], None)])
    assert (found["untimed"], found["tpot_ms"]) == (1, None)


def test_l1_running_counts_time_chunks_of_several_tokens() -> None:
    """Four tokens a chunk, 0.25 s each: the first chunk's four are not timed by what follows."""
    chunks = [
        (1.0 + i, {"choices": [{"delta": {"content": "four"}}], "usage": {"completion_tokens": 4 * (i + 1)}})
        for i in range(10)
    ]
    sample = read(*chunks, end(10), DONE)
    assert (sample.first_tokens, sample.output_tokens) == (4, 40)
    assert tpot_s(sample) == 0.25


def test_l1_running_counts_know_of_several_chunks_at_one_moment() -> None:
    chunks = [
        (
            1.0 + max(i - 1, 0),
            {"choices": [{"delta": {"content": "a"}}], "usage": {"completion_tokens": 2 * i + 2}},
        )
        for i in range(12)
    ]
    sample = read(*chunks, end(12), DONE)
    assert (sample.first_arrival_tokens, sample.output_tokens) == (4, 24)
    assert tpot_s(sample) == 0.5


def test_l1_chunks_that_were_read_together_are_not_timed_by_what_follows() -> None:
    """Two events in the first packet, as of a quick server: 38 tokens came after."""
    sample = read(*[delta(0.5 + 0.01 * max(i - 1, 0), content="a") for i in range(40)], usage(1, 40), DONE)
    assert tpot_s(sample) == pytest.approx(0.01)


def test_l1_few_tokens_more_than_chunks_are_timed() -> None:
    """As where a token is a part of a character, or a draft was right: vLLM's definition."""
    sample = read(*[delta(0.5 + 0.03 * i, content="a") for i in range(21)], usage(1, 31), DONE)
    assert not sample.untimed
    assert tpot_s(sample) == pytest.approx(0.02)


def test_blanks_stand_for_tokens_only_as_far_as_the_server_counts() -> None:
    events = [
        delta(0.1, content=""),
        delta(0.2, content="a"),
        delta(0.3, content=""),
        delta(0.4, content="b"),
    ]
    assert read(*events, end(0.5), usage(0.5, 3), DONE).chunk_s == [0.2, 0.3, 0.4]
    assert read(*events, end(0.5), usage(0.5, 4), DONE).chunk_s == [0.2, 0.3, 0.4, 0.5]
    assert read(*events, end(0.5), usage(0.5, 2), DONE).chunk_s == [0.2, 0.4]
    assert read(*events, end(0.5), DONE).chunk_s == [0.2, 0.4]


def test_usage_may_come_at_any_place() -> None:
    chunks = [delta(0.1, content="a"), delta(0.2, content="b")]
    last = (0.2, {"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": {"completion_tokens": 2}})
    for events in (
        [usage(0.05, 2), *chunks, end(0.2)],
        [chunks[0], usage(0.1, 0), chunks[1], usage(0.2, 2), end(0.2)],
        [*chunks, last],
        [*chunks, end(0.2), usage(0.3, 2)],
        [*chunks, end(0.2), (0.3, {"choices": None, "usage": {"completion_tokens": 2}})],
    ):
        sample = read(*events, DONE)
        assert (sample.usage_reported, sample.output_tokens, sample.chunk_s) == (True, 2, [0.1, 0.2])


def test_a_stream_may_end_with_its_finish_reason_only() -> None:
    assert read(delta(0.1, content="a"), end(0.2)).output_tokens == 1
    with pytest.raises(RequestError) as cut:
        read(delta(0.1, content="a"))
    assert cut.value.kind == "truncated"


@pytest.mark.parametrize(
    "event",
    [
        {"error": {"message": "told to fail"}},
        {"error": "told to fail"},
        {"object": "error", "message": "told to fail", "code": 500},
        {"detail": "told to fail"},
        {"message": "told to fail"},
    ],
)
def test_an_error_in_the_stream_is_one(event: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="told to fail") as failed:
        read(delta(0.1, content="a"), (0.2, event), end(0.3), DONE)
    assert failed.value.kind == "error_event"


def test_an_answer_without_a_token_is_an_error_that_tells_what_was_counted() -> None:
    with pytest.raises(RequestError, match="usage names 40"):
        read(OPENING, end(0.2), usage(0.2, 40), DONE)
