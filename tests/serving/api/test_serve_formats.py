"""Answers that have to be JSON of a shape, and schemas that are not to be trusted."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from lathe.serving.structured_output.schema_errors import GrammarError
from support.tiny_server import NAME, Running, running

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
MESSAGES: Any = [{"role": "user", "content": "Who?"}]


def wanted(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": True}}


def check_person(text: str) -> None:
    person = json.loads(text)
    assert list(person) == ["name", "age", "tags"]
    assert len(person["name"]) <= 12
    assert 0 <= person["age"] <= 150
    assert set(person["tags"]) <= {"a", "b"}


@pytest.mark.parametrize("options", [{"temperature": 0}, {"seed": 1}, {"seed": 2, "temperature": 2, "n": 3}])
def test_every_answer_matches_its_schema(client: openai.OpenAI, options: dict[str, Any]):
    asked = {"model": NAME, "messages": MESSAGES, "max_tokens": 300, "response_format": wanted(PERSON)}
    answer = client.chat.completions.create(**asked, **options)
    for choice in answer.choices:
        assert choice.finish_reason == "stop"
        check_person(choice.message.content)
    parts = client.chat.completions.create(**asked, **options, stream=True)
    first = [p.choices[0].delta.content or "" for p in parts if p.choices[0].index == 0]
    assert "".join(first) == answer.choices[0].message.content


def test_any_object_will_do_for_json_object(client: openai.OpenAI):
    for seed in range(5):
        answer = client.chat.completions.create(
            model=NAME,
            messages=MESSAGES,
            seed=seed,
            max_tokens=400,
            response_format={"type": "json_object"},
            logit_bias={str(ord("}") - ord("!") + 5): 5},
        )
        choice = answer.choices[0]
        assert choice.message.content.lstrip().startswith("{")
        if choice.finish_reason == "stop":
            assert isinstance(json.loads(choice.message.content), dict)


def test_the_schema_wins_over_biases_and_cuts(server: Running):
    asked = {"response_format": wanted({"enum": ["yes", "no"]}), "seed": 3, "max_tokens": 50}
    for change in ({"logit_bias": {"1": 100, "70": 100}}, {"top_k": 1}, {"top_p": 0.01}, {"stop": ["o"]}):
        choice = server.complete(**asked, **change)["choices"][0]
        assert choice["finish_reason"] == "stop"
        assert choice["text"].strip() in ('"yes"', '"no"', '"n')


def test_constrained_and_free_answers_share_a_batch(server: Running):
    shapes = [{}, {"response_format": wanted(PERSON)}]
    jobs = [{"seed": i, "max_tokens": 60} | shapes[i % 2] for i in range(6)]
    alone = [server.complete(**job)["choices"] for job in jobs]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda job: server.complete(**job)["choices"], jobs)) == alone


HOSTILE: dict[str, Any] = {
    "unknown-type": {"type": "robot"},
    "unimplemented": {"type": "array", "uniqueItems": True},
    "remote": {"$ref": "http://169.254.169.254/latest"},
    "file": {"$ref": "file:///etc/passwd"},
    "missing": {"$ref": "#/nowhere"},
    "extension": {"type": "string", "x-guidance": {"lenient": True}},
    "large": {"enum": ["x" * 100] * 1000},
    "prime": {"type": "integer", "multipleOf": 999983},
    "primes": {"allOf": [{"type": "integer", "multipleOf": p} for p in (97, 89, 83)]},
    "long pattern": {"type": "string", "pattern": "^a{1000000}$"},
    "long pattern of groups": {"type": "string", "pattern": "^((a{100}){100}){100}$"},
    "long minimum": {"type": "string", "pattern": "^a*$", "minLength": 1_000_000},
    "long key": {"type": "object", "patternProperties": {"^(ab){99999,}$": {}}},
    "tiny": {"allOf": [{"type": "number", "multipleOf": 1e-300}, {"multipleOf": 7}]},
    "product": {"allOf": [{"anyOf": [{"properties": {f"{i}{j}": {}}} for i in range(10)]} for j in range(6)]},
    "bad-pattern": {"type": "string", "pattern": "("},
    "look-around": {"type": "string", "pattern": "(?=a)b"},
    "undecidable": {"allOf": [{"type": "string", "pattern": f".*{c}.{{30}}"} for c in "abcdefgh"]},
    "nested-pattern": {"type": "string", "pattern": "(a|" * 5000 + "a" + ")" * 5000},
    "true": {"type": "integer", "multipleOf": True},
    "null": {"type": None},
    "loop": {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    "properties": {"type": "object", "properties": {f"p{i}": {"type": "integer"} for i in range(2000)}},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_bad_schema_is_refused_and_harms_nobody(server: Running, name: str):
    """Refused before anything is computed, or ended where its grammar has grown too large."""
    response = server.post("completions", prompt="x", max_tokens=100, response_format=wanted(HOSTILE[name]))
    assert response.status_code == 400, response.text
    assert "response_format" in response.json()["error"]["message"]
    assert len(response.content) < 2000
    assert server.service.backend.healthy


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize("levels", [55, 56, 57, 58, 59, 60, 61, 100, 180])
def test_deep_schemas_are_compiled_or_refused(server: Running, levels: int):
    response = server.post("completions", prompt="x", max_tokens=1, response_format=wanted(deep(levels)))
    assert response.status_code == (200 if levels <= 60 else 400)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "^(a+)+$"},
        {"type": "string", "pattern": "^(x{1,1000}){1,1000}$"},
        {"type": "string", "minLength": 10**6, "maxLength": 10**9},
        {"type": "array", "minItems": 10**18, "items": {"type": "integer"}},
        {"$defs": {"n": {"anyOf": [{"items": {"$ref": "#/$defs/n"}}] * 5}}, "$ref": "#/$defs/n"},
    ],
)
def test_schemas_that_only_look_large_are_kept_to(server: Running, schema: dict[str, Any]):
    choice = server.complete(response_format=wanted(schema), max_tokens=40, seed=1)["choices"][0]
    assert choice["finish_reason"] in ("stop", "length")


@pytest.mark.parametrize(
    ("format_", "change"),
    [
        ({"type": "yaml"}, {}),
        ({"type": "json_schema"}, {}),
        ({"type": "json_schema", "json_schema": {"name": "x"}}, {}),
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": []}}, {}),
        ({"type": "json_schema", "json_schema": {"name": "../x", "schema": {}}}, {}),
        ({"type": "json_object", "json_schema": {"name": "x", "schema": {}}}, {}),
        ({"type": "json_object", "other": 1}, {}),
        ({"type": "json_object"}, {"ignore_eos": True}),
        ({"type": "json_object"}, {"min_tokens": 3}),
        ([], {}),
    ],
)
def test_what_is_no_format_is_named(server: Running, format_: Any, change: dict[str, Any]):
    response = server.post("completions", prompt="x", response_format=format_, **change)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "response_format"


def test_a_number_without_end_is_refused(server: Running):
    with pytest.raises(GrammarError, match="digits"):
        server.service.grammars.compile({"minimum": 10**4999})


def test_grammars_are_kept_but_not_for_ever(artefact_dir: Path):
    with running(artefact_dir) as server:
        grammars = server.service.grammars
        first = grammars.compile({"const": 0})
        assert grammars.compile({"const": 0}) is first
        for number in range(1, 70):
            grammars.compile({"const": number})
        assert grammars.compile({"const": 0}) is not first
        assert len(grammars._kept) == 64


def test_a_grammar_that_grows_too_large_is_the_requests_fault(artefact_dir: Path):
    schema = HOSTILE["properties"]
    with running(artefact_dir) as server, openai.OpenAI(base_url=f"{server.url}/v1", api_key="x") as client:
        with pytest.raises(openai.BadRequestError, match="response_format: the schema is too large"):
            client.completions.create(
                model=NAME, prompt="x", stream=True, extra_body={"response_format": wanted(schema)}
            )
        started = time.monotonic()
        while not server.counter("lathe_requests_total", endpoint="completions", outcome="invalid"):
            assert time.monotonic() < started + 20
        assert server.complete(ignore_eos=True)["usage"]["completion_tokens"] == 16
