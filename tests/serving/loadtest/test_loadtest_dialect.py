"""What a server refuses by name is learned from its words, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lathe.artefact.errors import UserError
from lathe.serving.loadtest.client import request_body
from lathe.serving.loadtest.dialect import Dialect, read_extra_body
from lathe.serving.loadtest.refusals import refused_fields

LOC = {
    "type": "extra_forbidden",
    "loc": ["body", "ignore_eos"],
    "msg": "Extra inputs are not permitted",
    "input": True,
}
REFUSALS: dict[str, Any] = {
    "OpenAI, arguments": {
        "error": {"message": "Unrecognized request argument supplied: ignore_eos", "param": None}
    },
    "OpenAI, param": {"error": {"message": "Unknown parameter: 'ignore_eos'.", "param": "ignore_eos"}},
    "Azure": {
        "error": {
            "code": "unknown_parameter",
            "message": "Unknown parameter: 'ignore_eos'.",
            "param": "ignore_eos",
        }
    },
    "Azure AI": {"error": {"code": "Invalid input", "message": "invalid input error", "details": [LOC]}},
    "FastAPI": {"detail": [LOC]},
    "FastAPI, a union": {"detail": [LOC | {"loc": ["body", "ChatRequest", "ignore_eos"]}]},
    "Mistral": {"object": "error", "message": {"detail": [LOC]}, "type": "invalid_request_error"},
    "vLLM": {
        "object": "error",
        "message": f"[{LOC | {'loc': ('body', 'ignore_eos')}}]",
        "param": None,
        "code": 400,
    },
    "pydantic": {
        "error": "1 validation error for ChatCompletionRequest\nignore_eos\n  Extra inputs are not permitted "
        "[type=extra_forbidden, input_value=True, input_type=bool]"
    },
    "Anthropic": {"error": {"message": "ignore_eos: Extra inputs are not permitted"}},
    "Google": [
        {"error": {"message": 'Invalid JSON payload received. Unknown name "ignore_eos": Cannot find field.'}}
    ],
    "Groq": {"error": {"message": "property 'ignore_eos' is unsupported"}},
    "JSON schema": {
        "error": {"message": "Additional properties are not allowed ('ignore_eos' was unexpected)"}
    },
    "Go": {"error": 'json: unknown field "ignore_eos"'},
    "Rust": {
        "error": "Failed to deserialize the JSON body into the target type: unknown field `ignore_eos`, "
        "expected one of `model`, `messages`, `max_tokens`, `temperature`, `stream_options`"
    },
    "not supported": {"error": {"message": "ignore_eos is not supported"}},
    "no support": {"message": "This model does not support the parameter `ignore_eos`."},
    "a word before": {"message": "Unsupported parameter(s): `ignore_eos`"},
    "text": "Unrecognized field: ignore_eos",
    "Zod 3": {"error": {"message": "Unrecognized key(s) in object: 'ignore_eos'"}},
    "Zod, issues": {"issues": [{"code": "unrecognized_keys", "keys": ["ignore_eos"], "path": []}]},
    "Ajv": {
        "errors": [
            {
                "keyword": "additionalProperties",
                "params": {"additionalProperty": "ignore_eos"},
                "message": "must NOT have additional properties",
            }
        ]
    },
    "Newtonsoft": {"error": "Could not find member 'ignore_eos' on object of type 'Request'"},
    "Go, openapi": "additionalProperties: ignore_eos not allowed",
    "not a field": {"error": "ignore_eos is not a valid field"},
    "no verb": {"error": "parameter `ignore_eos` not supported"},
    "not recognised": {"error": "field ignore_eos not recognised; known are model, temperature, max_tokens"},
    "a list": {"error": "The following parameters are not supported: ignore_eos"},
    "must not": {"detail": "`ignore_eos` must not be set"},
}


def sent(dialect: Dialect) -> dict[str, Any]:
    return dialect.shaped(request_body("m", "x", 5, "chat"))


@pytest.mark.parametrize("name", REFUSALS)
def test_l3_a_refused_field_is_left_out_and_told(name: str) -> None:
    text = REFUSALS[name] if isinstance(REFUSALS[name], str) else json.dumps(REFUSALS[name])
    dialect = Dialect()
    before = sent(dialect)
    assert dialect.learn(request_body("m", "x", 5, "chat"), before, text)
    assert sent(dialect) == {key: value for key, value in before.items() if key != "ignore_eos"}
    assert len(dialect.notes) == 1
    assert "refuses ignore_eos: left out, answers may end before their length" in dialect.notes[0]
    assert not dialect.learn(request_body("m", "x", 5, "chat"), sent(dialect), text)


def test_l3_several_fields_at_once() -> None:
    for message in (
        "Unrecognized request arguments supplied: ignore_eos, stream_options",
        "Additional properties are not allowed ('ignore_eos', 'stream_options' were unexpected)",
        "Unsupported parameters: 'ignore_eos' and 'stream_options'",
    ):
        dialect = Dialect()
        assert dialect.learn(request_body("m", "x", 5, "chat"), sent(dialect), json.dumps({"error": message}))
        assert not {"ignore_eos", "stream_options"} & sent(dialect).keys(), message
        assert "temperature" in sent(dialect)


@pytest.mark.parametrize(
    "error",
    [
        {
            "message": "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
            "'max_completion_tokens' instead.",
            "param": "max_tokens",
            "code": "unsupported_parameter",
        },
        {"message": "max_tokens: Extra inputs are not permitted", "param": None},
        {"message": "'max_tokens' is deprecated, use max_completion_tokens", "param": "max_tokens"},
        {"message": 'Invalid JSON payload received. Unknown name "max_tokens": Cannot find field.'},
    ],
)
def test_l3_the_length_goes_by_its_other_name(error: dict[str, Any]) -> None:
    dialect = Dialect()
    assert dialect.learn(request_body("m", "x", 5, "chat"), sent(dialect), json.dumps({"error": error}))
    assert "max_tokens" not in sent(dialect)
    assert sent(dialect)["max_completion_tokens"] == 5
    assert "max_completion_tokens in place of max_tokens" in dialect.notes[0]


@pytest.mark.parametrize(
    "message",
    [
        "max_tokens is too large: 5000. This model supports at most 4096 completion tokens",
        "This model's maximum context length is 8 tokens, however you requested 9 tokens in max_tokens",
        "The model `m` does not exist",
        "messages: field required",
        "Unknown parameter: 'prompt'.",
        "bad request",
        "",
    ],
)
def test_l3_what_cannot_be_spared_stays_an_error(message: str) -> None:
    for body in (message, json.dumps({"error": {"message": message, "param": None}})):
        dialect = Dialect()
        assert not dialect.learn(request_body("m", "x", 5, "chat"), sent(dialect), body)
        assert dialect.notes == []


def test_l3_a_value_that_is_refused_by_param_can_be_spared() -> None:
    error = {
        "message": "Unsupported value: 'temperature' does not support 0 with this model. Only the default "
        "(1) value is supported.",
        "param": "temperature",
    }
    dialect = Dialect()
    assert dialect.learn(request_body("m", "x", 5, "chat"), sent(dialect), json.dumps({"error": error}))
    assert "temperature" not in sent(dialect)
    assert "samples as it likes" in dialect.notes[0]


def test_l3_running_counts_are_asked_for_and_given_up() -> None:
    dialect = Dialect(counting=True)
    assert sent(dialect)["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    refusal = json.dumps(
        {"error": {"param": "stream_options.continuous_usage_stats", "message": "Unknown parameter"}}
    )
    assert dialect.learn(request_body("m", "x", 5, "chat"), sent(dialect), refusal)
    assert sent(dialect)["stream_options"] == {"include_usage": True}
    assert dialect.notes == []
    nested = json.dumps({"error": {"param": "stream_options.include_usage", "message": "Unknown parameter"}})
    assert dialect.learn(request_body("m", "x", 5, "chat"), sent(dialect), nested)
    assert "stream_options" not in sent(dialect)


def test_l3_fields_of_the_users_own() -> None:
    extra = read_extra_body('{"seed": 3, "ignore_eos": null, "temperature": 0.5}')
    body = sent(Dialect(extra))
    assert (body["seed"], body["temperature"], "ignore_eos" in body) == (3, 0.5, False)
    dialect = Dialect({"seed": 3})
    refusal = json.dumps({"error": {"message": "Unknown parameter: 'seed'.", "param": "seed"}})
    assert not dialect.learn(request_body("m", "x", 5, "chat"), sent(dialect), refusal)
    assert read_extra_body(None) == {}


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "JSON"),
        ("[1]", "object"),
        ('"a"', "object"),
        ('{"max_tokens": 5}', "max_tokens"),
        ('{"stream": false}', "stream"),
        ('{"n": 2}', "sets n"),
        ('{"messages": []}', "messages"),
    ],
)
def test_l3_what_is_no_extra_body(text: str, what: str) -> None:
    with pytest.raises(UserError, match=what):
        read_extra_body(text)


def test_l3_stream_options_of_the_users_own_go_with_streams_only() -> None:
    dialect = Dialect({"stream_options": {"include_usage": True, "x": 1}})
    whole = {"model": "m", "prompt": "x", "max_tokens": 1}
    assert dialect.shaped(whole) == whole
    assert sent(dialect)["stream_options"] == {"include_usage": True, "x": 1}


def test_names_are_read_wherever_an_error_has_them() -> None:
    assert refused_fields("") == set()
    assert refused_fields("null") == set()
    assert "b" in refused_fields('{"detail": [{"loc": ["body", "a", 0, "b"], "msg": "x"}]}')
