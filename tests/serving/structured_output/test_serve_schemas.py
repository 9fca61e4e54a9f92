"""S8: a JSON Schema is kept to, or refused before an answer begins, by the name of what is at fault."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from lathe.serving.decoding.tokenizer import Tokenizer
from lathe.serving.structured_output.grammar import GrammarCompiler
from lathe.serving.structured_output.schema_errors import GrammarError
from support.tiny_server import Running, save_tokenizer

EOS = 1
NODE = {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}, "additionalProperties": False}
OPEN = {"type": "object", "additionalProperties": False}
KEPT: dict[str, Any] = {
    "required by a pattern": OPEN | {"patternProperties": {"^a": {"type": "integer"}}, "required": ["abc"]},
    "all keys of a pattern": OPEN
    | {"patternProperties": {"^(a|b)$": {"type": "null"}}, "required": ["a", "b"]},
    "the one key of a pattern": OPEN | {"patternProperties": {"^k$": {"type": "integer"}}, "required": ["k"]},
    "one of two keys": OPEN | {"patternProperties": {"^[ab]$": {"type": "null"}}, "required": ["b"]},
    "used up beside another": OPEN
    | {"patternProperties": {"^a$": {"type": "null"}, "^x": {"type": "integer"}}, "required": ["a"]},
    "used up by properties": OPEN
    | {"properties": {"a": {"type": "integer"}}, "patternProperties": {"^a$": {"minimum": 3}}},
    "used up inside": OPEN
    | {
        "properties": {"o": OPEN | {"patternProperties": {"^k$": {"type": "null"}}, "required": ["k"]}},
        "required": ["o"],
    },
    "pattern and properties": OPEN
    | {
        "properties": {"ab": {"type": "string"}},
        "patternProperties": {"^a": {"maxLength": 3}},
        "required": ["ab"],
    },
    "other keys": {"type": "object", "additionalProperties": {"type": "integer"}, "required": ["x"]},
    "one of": {"oneOf": [{"type": "integer"}, {"type": "string", "maxLength": 5}]},
    "one of two constants": {
        "oneOf": [OPEN | {"properties": {"k": {"const": c}}, "required": ["k"]} for c in "ab"]
    },
    "any of": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    "all of": {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
            {"properties": {"b": {"type": "boolean"}}, "required": ["b"]},
        ],
        "maxProperties": 2,
    },
    "recursion": {"$defs": {"n": NODE}, "$ref": "#/$defs/n"},
    "definitions": {"definitions": {"x": {"type": "boolean"}}, "$ref": "#/definitions/x"},
    "enum": {"enum": [1, "a", None, True, {"b": 2}, [1, 2], 1.5]},
    "const": {"const": {"a": [1, None, "x"]}},
    "date": {"type": "string", "format": "date"},
    "lengths": {"type": "string", "minLength": 2, "maxLength": 4},
    "pattern": {"type": "string", "pattern": "^[a-c]{2,3}$"},
    "multiples": {"type": "integer", "multipleOf": 7, "exclusiveMinimum": 5, "exclusiveMaximum": 90},
    "tuple": {
        "type": "array",
        "prefixItems": [{"type": "integer"}, {"type": "string", "maxLength": 3}],
        "items": False,
        "minItems": 2,
    },
    "items": {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 3},
    "true": OPEN | {"properties": {"a": True, "b": False}, "required": ["a"]},
    "several types": {"type": ["string", "null"], "maxLength": 3},
    "what forbids nothing": {
        "type": "array",
        "uniqueItems": False,
        "minContains": 0,
        "unevaluatedItems": True,
        "not": False,
        "items": {"type": "null"},
        "if": {"type": "array"},
    },
    "properties called like keywords": OPEN
    | {"properties": {"not": {"type": "null"}, "uniqueItems": {"type": "null"}}, "required": ["not"]},
}
REFUSED: dict[str, tuple[Any, str]] = {
    "not": ({"type": "integer", "not": {"const": 3}}, "^not: not supported"),
    "if": ({"if": {"type": "integer"}, "then": {"minimum": 3}}, "if, then: not supported"),
    "contains": ({"type": "array", "contains": {"type": "integer"}}, "^contains: "),
    "uniqueItems": ({"properties": {"a": {"uniqueItems": True}}}, "^uniqueItems: .*#/properties/a"),
    "dependentRequired": ({"type": "object", "dependentRequired": {"a": ["b"]}}, "^dependentRequired"),
    "propertyNames": ({"type": "object", "propertyNames": {"pattern": "^a"}}, "^propertyNames"),
    "unevaluatedProperties": ({"type": "object", "unevaluatedProperties": False}, "^unevaluatedProperties"),
    "overlapping": ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "^oneOf: .* use anyOf"),
    "overlapping patterns": (
        {"type": "object", "patternProperties": {"^x-": {"type": "string"}, "a$": {"type": "integer"}}},
        "^patternProperties: /.x-/ and /a./ match some keys in common",
    ),
    "look-ahead": (
        {
            "properties": {
                "y": {"type": "string", "pattern": "ok"},
                "x": {"type": "string", "pattern": "^(?=a)b"},
            }
        },
        "^pattern: look-around.* is not supported .*#/properties/x",
    ),
    "word border": ({"type": "string", "pattern": r"\bfoo\b"}, "^pattern: word boundaries"),
    "no pattern": ({"type": "object", "patternProperties": {"(": {}}}, "^patternProperties: unclosed group"),
    "format": ({"type": "string", "format": "zipcode"}, "^format: zipcode is not supported"),
    "remote": ({"$ref": "http://x/y"}, r"^\$ref: http://x/y is not in the schema"),
    "nowhere": ({"$ref": "#/$defs/nope"}, r"^\$ref: the schema has no #/\$defs/nope"),
    "loop": ({"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, r"^\$ref: .*back to itself"),
    "type": ({"type": "robot"}, "^type: robot"),
    "bounds": ({"type": "integer", "minimum": 5, "maximum": 3}, r"^minimum \(5\) is greater than maximum"),
    "lengths": ({"type": "string", "minLength": 5, "maxLength": 2}, "^minLength"),
    "items": ({"type": "array", "minItems": 4, "maxItems": 3}, "^minItems"),
    "text bound": ({"type": "integer", "minimum": "5"}, '^minimum: "5" is not a number'),
    "no integer": ({"type": "integer", "minimum": 1.2, "maximum": 1.8}, "^minimum: there is no integer"),
    "no multiple": ({"type": "integer", "minimum": 1, "maximum": 3, "multipleOf": 5}, "^multipleOf"),
    "nothing": ({"enum": []}, "^enum: nothing to choose from"),
    "nothing inside": (
        {"type": "object", "properties": {"x": {"enum": []}}, "required": ["x"]},
        "^enum: nothing to choose from .in #/properties/x",
    ),
    "false": ({"type": "object", "properties": {"a": False}, "required": ["a"]}, "^required: .* property a"),
    "types": ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "^type: "),
    "string and length": ({"type": "string", "format": "date", "maxLength": 4}, "^format: no string"),
    "too large": (
        {"type": "object", "properties": {f"p{i}": {"type": "integer"} for i in range(2000)}},
        "^the schema is too large",
    ),
}
INTERNAL = "NoExtension|coerce_one_of|SearchRegex|Unimplemented|f64|non-verbose|left-recursive|\n"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory: Path = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(directory)
    return Tokenizer(directory)


@pytest.fixture(scope="module")
def grammars(tokenizer: Tokenizer) -> GrammarCompiler:
    return GrammarCompiler(tokenizer, 320, {EOS})


def walk(tokenizer: Tokenizer, grammars: GrammarCompiler, schema: Any, seed: int) -> Any:
    """A document that a random model writes, soon at its end where it may end."""
    rng = np.random.default_rng(seed)
    closing = {int(tokenizer.encode(mark, special=False)[0]) for mark in '"}],'}
    constraint = grammars.compile(schema).begin()
    text = b""
    for _ in range(600):
        allowed = np.flatnonzero(constraint.allowed())
        likely = [token for token in allowed if token in closing or token == EOS]
        token = int(rng.choice(likely if likely and rng.random() < 0.5 else allowed))
        constraint.accept(token)
        text += tokenizer.token_bytes(token)
        if token == EOS or constraint.complete:
            return json.loads(text)
    pytest.skip("this walk has no end")


@pytest.mark.parametrize("name", KEPT)
def test_s8_whatever_a_model_says_matches(tokenizer: Tokenizer, grammars: GrammarCompiler, name: str):
    for seed in range(8):
        document = walk(tokenizer, grammars, KEPT[name], seed)
        jsonschema.validate(document, KEPT[name], jsonschema.Draft202012Validator)


@pytest.mark.parametrize("name", REFUSED)
def test_s8_what_is_at_fault_is_named(grammars: GrammarCompiler, name: str):
    schema, words = REFUSED[name]
    with pytest.raises(GrammarError, match=words) as refusal:
        grammars.compile(schema)
    assert not re.search(INTERNAL, str(refusal.value))


@pytest.mark.parametrize("name", ["not", "loop", "too large", "nothing inside", "overlapping"])
def test_s8_a_stream_is_refused_before_it_begins(server: Running, name: str):
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": REFUSED[name][0]}}
    for endpoint, asked in (
        ("completions", {"prompt": "x"}),
        ("chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
    ):
        response = server.post(endpoint, **asked, response_format=form, stream=True)
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "response_format"
        assert response.json()["error"]["message"].startswith("response_format: ")


@pytest.mark.parametrize(
    "name", ["structured_outputs", "guided_json", "guided_choice", "guided_regex", "guided_grammar"]
)
def test_s8_vllms_fields_are_refused_with_what_to_use(server: Running, name: str):
    response = server.post("completions", prompt="x", **{name: {"json": {}}})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == name
    assert "use response_format" in response.json()["error"]["message"]
