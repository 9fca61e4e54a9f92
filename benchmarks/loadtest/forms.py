"""The forms in which OpenAI-compatible servers stream an answer.

They are written from OpenAI's API reference (the object chat.completion.chunk) and, for what others add, from
vLLM's, DeepSeek's, Mistral's and OpenRouter's.

A form gives the pieces of an answer of some tokens: how many of them are generated when a piece is sent, and
its bytes. What is sent before the first token has none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Piece = tuple[int, bytes]
Delta = dict[str, Any]

DONE = b"data: [DONE]\n\n"
ROLE: Delta = {"role": "assistant", "content": "", "refusal": None}
WORD = " word"


@dataclass(frozen=True)
class Form:
    """`pieces` for a number of tokens.

    `timed`: whether they tell the time of a token; `error`: the kind of error that the answer ends in.
    """

    pieces: Callable[[int], list[Piece]]
    timed: bool = True
    error: str | None = None


def event(document: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(document)}\n\n".encode()


def chunk(delta: Delta, finish: str | None = None, usage: int | None = None) -> dict[str, Any]:
    """One chat.completion.chunk; `usage`: its completion tokens."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return {**head, "choices": [choice], "usage": None if usage is None else told(usage)}


def told(tokens: int, reasoning: int = 0) -> dict[str, Any]:
    details = {"reasoning_tokens": reasoning}
    return {
        "prompt_tokens": 9,
        "completion_tokens": tokens,
        "total_tokens": tokens + 9,
        "completion_tokens_details": details,
    }


def counted(tokens: int, reasoning: int = 0) -> Piece:
    """The chunk of `stream_options.include_usage`: no choice, all tokens."""
    return tokens, event({**chunk({}), "choices": [], "usage": told(tokens, reasoning)})


def ended(tokens: int, finish: str = "stop") -> Piece:
    return tokens, event(chunk({}, finish))


def answer(deltas: Sequence[Delta], opening: Sequence[Delta] = (ROLE,), finish: str = "stop") -> list[Piece]:
    """The usual stream: the role, a chunk for each token, a chunk for the end, usage, [DONE]."""
    tokens = len(deltas)
    opened = [(0, event(chunk(delta))) for delta in opening]
    said = [(number, event(chunk(delta))) for number, delta in enumerate(deltas, 1)]
    return [*opened, *said, ended(tokens, finish), counted(tokens), (tokens, DONE)]


def every(delta: Delta, opening: Sequence[Delta] = (ROLE,), finish: str = "stop") -> Form:
    return Form(lambda tokens: answer([delta] * tokens, opening, finish))


def rewritten(change: Callable[[bytes], bytes]) -> Form:
    """The usual stream in other bytes."""
    return Form(
        lambda tokens: [(number, change(raw)) for number, raw in answer([{"content": WORD}] * tokens)]
    )


def reasoned(field: str) -> Form:
    """Three quarters are reasoning."""

    def pieces(tokens: int) -> list[Piece]:
        thoughts = tokens * 3 // 4
        return answer([{field: WORD}] * thoughts + [{"content": WORD}] * (tokens - thoughts))

    return Form(pieces)


def called(tokens: int) -> list[Piece]:
    """Two tool calls: a chunk names the function, the others bring its arguments."""
    half = tokens // 2
    deltas: list[Delta] = []
    for index, length in enumerate((half, tokens - half)):
        named = {
            "index": index,
            "id": f"call_{index}",
            "type": "function",
            "function": {"name": "f", "arguments": ""},
        }
        more = {"index": index, "function": {"arguments": '"a'}}
        deltas += [{"tool_calls": [named]}, *([{"tool_calls": [more]}] * (length - 1))]
    return answer(deltas, [{"role": "assistant", "content": None}, {"tool_calls": []}], "tool_calls")


def legacy(tokens: int) -> list[Piece]:
    """/v1/completions; the last token has no text and comes with the finish reason."""

    def part(text: str, finish: str | None) -> bytes:
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
        return event({"id": "cmpl-1", "object": "text_completion", "choices": [choice]})

    said = [(number, part(WORD, None)) for number in range(1, tokens)]
    return [*said, (tokens, part("", "stop")), counted(tokens), (tokens, DONE)]


def grouped(size: int, *, running: bool) -> Form:
    """`size` tokens in a chunk; `running`: each tells how many there have been (continuous_usage_stats)."""

    def pieces(tokens: int) -> list[Piece]:
        ends = [*range(size, tokens, size), tokens]
        said = [
            (number, event(chunk({"content": WORD * size}, usage=number if running else None)))
            for number in ends
        ]
        return [(0, event(chunk(ROLE))), *said, ended(tokens), counted(tokens), (tokens, DONE)]

    return Form(pieces)


def with_usage(place: str) -> Form:
    """Usage before the answer, with its last chunk, with every chunk, or never."""

    def pieces(tokens: int) -> list[Piece]:
        running = place == "every"
        said = [
            (number, event(chunk({"content": WORD}, usage=number if running else None)))
            for number in range(1, tokens + 1)
        ]
        last = tokens, event(chunk({}, "stop", tokens if place in ("last", "every") else None))
        before = [(0, counted(tokens)[1])] if place == "before" else []
        return [(0, event(chunk(ROLE))), *before, *said, last, (tokens, DONE)]

    return Form(pieces)


def beside(extra: bytes, *, every_token: bool = True) -> Form:
    """Something before and between the chunks that is no token."""

    def pieces(tokens: int) -> list[Piece]:
        usual = answer([{"content": WORD}] * tokens)
        return [(0, extra)] * 3 + [(number, extra + raw if every_token else raw) for number, raw in usual]

    return Form(pieces)


def split(tokens: int) -> list[Piece]:
    """Every event in three packets."""
    cut: list[Piece] = []
    for number, raw in answer([{"content": WORD}] * tokens):
        third = len(raw) // 3
        cut += [(number, raw[:third]), (number, raw[third : 2 * third]), (number, raw[2 * third :])]
    return cut


def packed(tokens: int) -> list[Piece]:
    """Two events in a packet after the first."""
    usual = answer([{"content": WORD}] * tokens)
    first, rest = usual[:2], usual[2:]
    pairs = [rest[at : at + 2] for at in range(0, len(rest), 2)]
    return [*first, *((pair[-1][0], b"".join(raw for _, raw in pair)) for pair in pairs)]


def blanks(tokens: int) -> list[Piece]:
    """Every third token has no text yet: a part of a character."""
    return answer([{"content": "" if number % 3 == 2 else WORD} for number in range(tokens)])


def hidden(tokens: int) -> list[Piece]:
    """Reasoning is counted and never streamed."""
    unseen = tokens * 3 // 4
    said = [(number, event(chunk({"content": WORD}))) for number in range(unseen + 1, tokens + 1)]
    return [(0, event(chunk(ROLE))), *said, ended(tokens), counted(tokens, unseen), (tokens, DONE)]


def at_once(tokens: int) -> list[Piece]:
    """A proxy keeps the stream until it is over."""
    return [(tokens, b"".join(raw for _, raw in answer([{"content": WORD}] * tokens)))]


def in_one_chunk(tokens: int) -> list[Piece]:
    return [
        (0, event(chunk(ROLE))),
        (tokens, event(chunk({"content": WORD * tokens}))),
        ended(tokens),
        counted(tokens),
        (tokens, DONE),
    ]


def broken(tokens: int) -> list[Piece]:
    failed = event({"error": {"message": "out of memory", "type": "server_error", "code": 500}})
    return [*answer([{"content": WORD}] * tokens)[: tokens // 2], (tokens // 2, failed)]


def over_lines(raw: bytes) -> bytes:
    """An event's JSON over several data lines."""
    if raw == DONE:
        return raw
    lines = json.dumps(json.loads(raw.removeprefix(b"data: ")), indent=1).splitlines()
    return "".join(f"data: {line}\n" for line in lines).encode() + b"\n"


THOUGHT = {"type": "thinking", "thinking": [{"type": "text", "text": WORD}]}
DETAIL = {"type": "reasoning.text", "text": WORD}
FORMS: dict[str, Form] = {
    "chat": every({"content": WORD}),
    "completions": Form(legacy),
    "reasoning": reasoned("reasoning"),
    "reasoning_content": reasoned("reasoning_content"),
    "reasoning only": every({"reasoning": WORD}),
    "reasoning in both fields": every({"reasoning": WORD, "reasoning_content": WORD}),
    "thinking parts": every({"content": [THOUGHT]}),
    "reasoning details": every({"content": "", "reasoning_details": [DETAIL]}),
    "tool calls": Form(called),
    "function call": every({"function_call": {"arguments": WORD}}, finish="function_call"),
    "refusal": every({"refusal": WORD}),
    "transcript": every({"audio": {"transcript": WORD}}, [{"role": "assistant", "audio": {"id": "a"}}]),
    "role with the first token": every({"role": "assistant", "content": WORD}, ()),
    "empty chunks first": every({"content": WORD}, [ROLE, {"content": ""}, {}, {"content": None}]),
    "empty chunks between": beside(event(chunk({"content": ""}))),
    "tokens without text": Form(blanks),
    "comments": beside(b": keep-alive\n\n"),
    "comments before the answer": beside(b": OPENROUTER PROCESSING\n\n", every_token=False),
    "event names": rewritten(lambda raw: b"event: message\nid: 1\nretry: 100\n" + raw),
    "CRLF": rewritten(lambda raw: raw.replace(b"\n", b"\r\n")),
    "CR": rewritten(lambda raw: raw.replace(b"\n", b"\r")),
    "no space after the colon": rewritten(lambda raw: raw.replace(b"data: ", b"data:")),
    "data over several lines": rewritten(over_lines),
    "two tokens a chunk": grouped(2, running=False),
    "four tokens a chunk, counted": grouped(4, running=True),
    "two events a packet": Form(packed),
    "an event in three packets": Form(split),
    "usage before": with_usage("before"),
    "usage with the last choice": with_usage("last"),
    "usage with every chunk": with_usage("every"),
    "no usage": with_usage("never"),
    "no [DONE]": Form(lambda tokens: answer([{"content": WORD}] * tokens)[:-1]),
    "reasoning not streamed": Form(hidden, timed=False),
    "six tokens a chunk, not counted": Form(grouped(6, running=False).pieces, timed=False),
    "one chunk": Form(in_one_chunk, timed=False),
    "kept by a proxy": Form(at_once, timed=False),
    "an error in the stream": Form(broken, error="error_event"),
}
