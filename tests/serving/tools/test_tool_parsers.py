"""Each family's own text of calls, whole and cut anywhere."""

from __future__ import annotations

import random
import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lathe.serving.tools.call_format import ToolCallFormat
from lathe.serving.tools.parser import Arguments, CallParser, Event, Start, Text
from lathe.serving.tools.registry import available_formats

NAMES = ["get_weather", "do-it"]
FORMS = {call_format.name: call_format for call_format in available_formats()}
WEATHER = '{"city": "S\\u00e3o \\"P{aulo\\"", "days": [1, {"a": "}"}]}'

CALLS: dict[str, list[tuple[str, str, list[tuple[str, str]]]]] = {
    "hermes": [
        (
            f'<tool_call>\n{{"name": "get_weather", "arguments": {WEATHER}}}\n</tool_call>',
            "",
            [("get_weather", WEATHER)],
        ),
        (
            f'I will look.\n<tool_call>\n{{"name": "get_weather", "arguments": {WEATHER}}}\n</tool_call>\n'
            '<tool_call>\n{"name": "do-it", "arguments": {}}\n</tool_call>',
            "I will look.",
            [("get_weather", WEATHER), ("do-it", "{}")],
        ),
        (
            '<tool_call>{"name":"do-it","arguments":{"x":1}}</tool_call>\n\n',
            "",
            [("do-it", '{"x":1}')],
        ),
    ],
    "llama3_json": [
        (f'{{"name": "get_weather", "parameters": {WEATHER}}}', "", [("get_weather", WEATHER)]),
        ('<|python_tag|>{"name": "do-it", "parameters": {}}', "", [("do-it", "{}")]),
        ('\n{"name":"do-it","parameters":{"x":1}}', "", [("do-it", '{"x":1}')]),
    ],
    "mistral_list": [
        (
            f'[TOOL_CALLS] [{{"name": "get_weather", "arguments": {WEATHER}}}, '
            '{"name": "do-it", "arguments": {}}]',
            "",
            [("get_weather", WEATHER), ("do-it", "{}")],
        ),
        (
            'Wait.[TOOL_CALLS][{"name": "do-it", "arguments": {"x": 1}, "id": "a1b2c3d4e"}]',
            "Wait.",
            [("do-it", '{"x": 1}')],
        ),
    ],
    "mistral_args": [
        (
            f"[TOOL_CALLS]get_weather[ARGS]{WEATHER}[TOOL_CALLS]do-it[ARGS]{{}}",
            "",
            [("get_weather", WEATHER), ("do-it", "{}")],
        ),
    ],
    "mistral_call_id": [
        (
            f"On it.[TOOL_CALLS]get_weather[CALL_ID]a1b2c3d4e[ARGS]{WEATHER}",
            "On it.",
            [("get_weather", WEATHER)],
        ),
    ],
}
WORDS: dict[str, list[str]] = {
    "hermes": [
        "plain words <tool_ and < more",
        '<tool_call>\n{"name": "unknown", "arguments": {}}\n</tool_call>',
        "<tool_call>get_weather(city=1)</tool_call>",
        '<tool_call>{"name": "get_weather", "arguments": [1]}</tool_call>',
        "The mark <tool_call> opens a call.",
        '{"name": "get_weather", "arguments": {}}',
        " \n two lines\n\n",
    ],
    "llama3_json": [
        '{"name": "unknown", "parameters": {}}',
        '{"name": "get_weather", "age": 3}',
        'Look: {"name": "get_weather", "parameters": {}}',
        "{",
    ],
    "mistral_list": [
        "[TOOL_CALLS]nothing",
        '[TOOL_CALLS] [{"name": "unknown", "arguments": {}}]',
        "[TOOL",
        "[]",
    ],
    "mistral_args": ["[TOOL_CALLS]unknown[ARGS]{}", "[TOOL_CALLS]get_weather[ARGS]5", "[ARGS]{}"],
    "mistral_call_id": ["[TOOL_CALLS]get_weather[ARGS]{}"],
}
PAIRS = [(name, case) for name, cases in CALLS.items() for case in cases]


def parse(call_format: ToolCallFormat, pieces: list[str], *, cut: bool = False) -> list[Event]:
    parser = CallParser(call_format, NAMES)
    events = [event for piece in pieces for event in parser.push(piece)]
    return events + parser.flush(cut=cut)


def said(events: list[Event]) -> tuple[str, list[tuple[str, str]]]:
    calls: list[tuple[str, str]] = []
    for event in events:
        if isinstance(event, Start):
            calls.append((event.name, ""))
        elif isinstance(event, Arguments):
            calls[-1] = (calls[-1][0], calls[-1][1] + event.text)
    return "".join(event.text for event in events if isinstance(event, Text)), calls


def pieces_of(text: str, cuts: list[int]) -> list[str]:
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[a:b] for a, b in pairwise(places)]


@pytest.mark.parametrize(("name", "case"), PAIRS)
def test_calls_are_read_in_the_familys_own_form(name: str, case: tuple[str, str, list[tuple[str, str]]]):
    text, words, calls = case
    events = parse(FORMS[name], [text])
    assert said(events) == (words, calls)
    ids = [event.id for event in events if isinstance(event, Start)]
    pattern = "[a-zA-Z0-9]{9}" if name.startswith("mistral") else "call_[0-9a-f]{24}"
    assert all(re.fullmatch(pattern, one) for one in ids)
    assert len(set(ids)) == len(ids)
    for one in range(len(text)):
        assert said(parse(FORMS[name], [text[:one], text[one:]])) == (words, calls)
    assert said(parse(FORMS[name], list(text))) == (words, calls)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(PAIRS), st.lists(st.integers(0, 10_000), max_size=12))
def test_calls_are_the_same_however_the_text_is_cut(pair, cuts):
    name, (text, words, calls) = pair
    assert said(parse(FORMS[name], pieces_of(text, cuts))) == (words, calls)


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(sorted(FORMS)), st.integers(0, 2**32), st.lists(st.integers(0, 10_000), max_size=8))
def test_any_text_is_read_the_same_however_it_is_cut(name, seed, cuts):
    """Mixtures of marks, halves of them, braces and words: nothing raises, and chunks change nothing."""
    call_format, rng = FORMS[name], random.Random(seed)
    crumbs = [
        *call_format.marks,
        *(mark[:3] for mark in call_format.marks),
        *CALLS[name][0][0].partition("{"),
        *NAMES,
    ]
    crumbs += ["{", "}", "[", "]", '"', ", ", " ", "\n", "word", '{"name": "', '", "arguments": ', "{}", "]"]
    text = "".join(rng.choice(crumbs) for _ in range(rng.randrange(12)))
    for cut in (False, True):
        assert said(parse(call_format, pieces_of(text, cuts), cut=cut)) == said(
            parse(call_format, [text], cut=cut)
        )


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in WORDS.items() for text in texts])
def test_what_is_no_call_is_text(name: str, text: str):
    """Unknown names, other syntax, arguments that are no object, halves of marks: nothing is lost."""
    for pieces in ([text], list(text)):
        assert said(parse(FORMS[name], pieces)) == (text, [])


@pytest.mark.parametrize("name", FORMS)
def test_a_call_that_is_cut_off_leaks_no_mark(name: str):
    text, words, calls = CALLS[name][0]
    for end in range(len(text)):
        spoken, begun = said(parse(FORMS[name], [text[:end]], cut=True))
        assert not any(mark in spoken for mark in FORMS[name].marks)
        assert [one for one, _ in begun] == [one for one, _ in calls[: len(begun)]]
        if begun:
            assert spoken == words
            assert calls[len(begun) - 1][1].startswith(begun[-1][1])


@pytest.mark.parametrize("name", FORMS)
def test_calls_are_read_back_as_they_are_written(name: str):
    written = [("get_weather", '{"city": "Rome"}'), ("do-it", "{}")][: 2 if FORMS[name].several else 1]
    assert said(parse(FORMS[name], [FORMS[name].write(written)])) == ("", written)


def test_arguments_come_while_they_are_written():
    parser = CallParser(FORMS["hermes"], NAMES)
    assert parser.push('<tool_call>\n{"name": "do-it", "argum') == []
    start, first = parser.push('ents": {"a": ')
    assert isinstance(start, Start)
    assert first == Arguments('{"a": ')
    assert parser.push("1") == [Arguments("1")]
    assert parser.push("}}\n</tool_") == [Arguments("}")]
    assert parser.push("call>") + parser.flush(cut=False) == []
    assert parser.called == 1
