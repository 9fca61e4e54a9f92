"""Random walks through the grammar of each form: what comes out is read back as calls that match."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from lathe.serving.decoding.tokenizer import Tokenizer
from lathe.serving.structured_output.grammar import GrammarCompiler, GrammarError
from lathe.serving.tools.grammar import Choice, Tool, ToolCallSpec, closed
from lathe.serving.tools.parser import Arguments, CallParser, Event, Start, Text
from lathe.serving.tools.registry import available_formats
from support.tool_models import save_calling_tokenizer

FORMS = {call_format.name: call_format for call_format in available_formats()}
CITY = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}
TOOLS = [Tool("get_weather", CITY), Tool("do-it", {"type": "object", "properties": {}}, strict=True)]
WORDS = "The fox {is} [quick] <now>, it"
END = 1


@pytest.fixture(scope="module", params=[True, False], ids=["tokens", "spelled"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory: Path = tmp_path_factory.mktemp("tokenizer")
    save_calling_tokenizer(directory, marks=request.param)
    return Tokenizer(directory)


def grammars(tokenizer: Tokenizer) -> GrammarCompiler:
    return GrammarCompiler(tokenizer, 328, {END})


def walk(tokenizer: Tokenizer, spec: ToolCallSpec, seed: int, forced: str = "") -> tuple[str, bool]:
    """(the text that a random model writes after the forced words, whether it came to an end)."""
    rng = np.random.default_rng(seed)
    constraint = grammars(tokenizer).compile_tools(spec).begin()
    spelled = {tokenizer.token(mark): mark.encode() for mark in spec.format.marks}
    begun: Sequence[int] = tokenizer.encode(forced, special=False).tolist()
    text = b""
    for step in range(200):
        allowed = constraint.allowed()
        if step < len(begun):
            token = begun[step]
            assert allowed[token]
        else:
            token = END if allowed[END] and rng.random() < 0.2 else int(rng.choice(np.flatnonzero(allowed)))
        constraint.accept(token)
        if token == END:
            return text.decode(errors="replace"), True
        text += spelled.get(token) or tokenizer.token_bytes(token)
        if constraint.complete:
            return text.decode(errors="replace"), True
    return text.decode(errors="replace"), False


def read(spec: ToolCallSpec, text: str, ended: bool) -> tuple[list[Event], int]:
    parser = CallParser(spec.format, [tool.name for tool in spec.tools])
    return parser.push(text) + parser.flush(cut=not ended), parser.called


def check_arguments(events: Sequence[Event], calls: int) -> None:
    arguments: list[list[str]] = []
    for event in events:
        if isinstance(event, Start):
            arguments.append([event.name, ""])
        elif isinstance(event, Arguments):
            arguments[-1][1] += event.text
    for name, text in arguments[:calls]:
        found = json.loads(text)
        assert found == {} if name == "do-it" else found in ({"city": "Paris"}, {"city": "Rome"})


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("several", [True, False])
def test_what_is_required_is_a_call(tokenizer: Tokenizer, name: str, several: bool):
    spec = ToolCallSpec(FORMS[name], TOOLS, "required", several)
    for seed in range(8):
        text, ended = walk(tokenizer, spec, seed)
        events, calls = read(spec, text, ended)
        assert not any(isinstance(event, Text) for event in events), text
        assert calls or not ended, text
        assert calls < 2 or several
        check_arguments(events, calls)


@pytest.mark.parametrize("name", FORMS)
def test_words_are_free_and_a_call_is_held_to_its_schema(tokenizer: Tokenizer, name: str):
    call_format = FORMS[name]
    spec = ToolCallSpec(call_format, TOOLS, "auto", several=False)
    head = call_format.written_head("get_weather") if call_format.bare else f"Look: {call_format.opening}"
    for seed in range(6):
        text, ended = walk(tokenizer, spec, seed, head)
        events, calls = read(spec, text, ended)
        assert calls == 1 or not ended, text
        check_arguments(events, calls)
        first = read(spec, *walk(tokenizer, spec, seed, WORDS))[0][0]
        assert isinstance(first, Text)
        assert first.text.startswith(WORDS)


@pytest.mark.parametrize("name", FORMS)
def test_nothing_is_called_where_that_is_forbidden(tokenizer: Tokenizer, name: str):
    call_format = FORMS[name]
    spec = ToolCallSpec(call_format, TOOLS, "none", several=True)
    for seed in range(4):
        assert read(spec, *walk(tokenizer, spec, seed))[1] == 0
    with pytest.raises((AssertionError, GrammarError)):
        walk(tokenizer, spec, 0, call_format.write([("do-it", "{}")]))


@pytest.mark.parametrize("choice", ["none", "auto"])
def test_other_special_tokens_stay_free_among_words(tokenizer: Tokenizer, choice: Choice):
    """A thinking model's marks, say."""
    user = tokenizer.token("<|user|>")
    for call_format in FORMS.values():
        constraint = (
            grammars(tokenizer).compile_tools(ToolCallSpec(call_format, TOOLS, choice, several=True)).begin()
        )
        for token in (user, *tokenizer.encode("Hm", special=False), user, user):
            assert constraint.allowed()[token]
            constraint.accept(token)
        assert constraint.allowed()[END]


def test_a_bad_schema_is_blamed_on_its_tool(tokenizer: Tokenizer):
    for bad in ({"properties": {"a": {"type": "robot"}}}, {"$ref": "#/nowhere"}, {"x-guidance": {}}):
        with pytest.raises(GrammarError, match="'sick'"):
            grammars(tokenizer).compile_tools(
                ToolCallSpec(FORMS["hermes"], [*TOOLS, Tool("sick", bad)], "auto", several=True)
            )
    sets = {"properties": {"a": {"type": "array", "uniqueItems": True}}}
    spec = ToolCallSpec(FORMS["hermes"], [Tool("sets", sets)], "auto", several=True)
    assert grammars(tokenizer).compile_tools(spec)
    with pytest.raises(GrammarError, match=r"'sets'.*uniqueItems"):
        grammars(tokenizer).compile_tools(
            ToolCallSpec(FORMS["hermes"], [Tool("sets", sets, strict=True)], "auto", several=True)
        )


def test_schemas_of_all_tools_have_a_limit(tokenizer: Tokenizer):
    large = {"properties": {"a": {"description": "x" * 60_000}}}
    tools = [Tool(f"t{i}", large) for i in range(5)]
    with pytest.raises(GrammarError, match="all tools are larger"):
        grammars(tokenizer).compile_tools(ToolCallSpec(FORMS["hermes"], tools, "auto", several=True))


def test_arguments_that_are_not_described_are_closed_out():
    assert closed(CITY)["additionalProperties"] is False
    assert closed({}) == {"type": "object"}
    assert closed(CITY | {"required": ["city", "more"]}) == CITY | {"required": ["city", "more"]}
    for opening in ({"additionalProperties": True}, {"patternProperties": {}}, {"allOf": []}):
        assert closed(CITY | opening) == CITY | opening
