"""Published API descriptions, OpenAI's and Open Responses', trimmed to what this server answers.

The files come with llm-comply, which bundles them (MIT); nothing is fetched. For responses OpenAI's is not
used: there `user`, which OpenAI's own answers have as null, is a string. Open Responses' names discriminators
without a mapping of their values, for which the names of schemas would then be taken.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Paths = dict[str, tuple[str, ...]]
OPENAI: Paths = {
    "/completions": ("post",),
    "/chat/completions": ("post",),
    "/models": ("get",),
    "/models/{model}": ("get",),
}
RESPONSES: Paths = {"/responses": ("post",)}
ASKED = (
    "model",
    "input",
    "instructions",
    "temperature",
    "top_p",
    "max_output_tokens",
    "metadata",
    "stream",
    "text",
    "top_logprobs",
    "truncation",
)
"""Of a response with a text for input; most other fields are of what OpenAI stores and hosts."""
REQUESTS = ("CreateCompletionRequest", "CreateChatCompletionRequest", "CreateResponseBody")


def trimmed(published: Path, operations: Paths, model: str) -> dict[str, Any]:
    """These operations and the schemas that they need; every example asks for `model`."""
    document = json.loads(published.read_text(encoding="utf-8"), object_hook=_without_bare_discriminator)
    paths = {
        path: {method: _operation(document["paths"][path][method]) for method in methods}
        for path, methods in operations.items()
    }
    schemas = document["components"]["schemas"]
    kept = {name: schemas[name] for name in _reached(paths, schemas)}
    small = {"openapi": document["openapi"], "info": document["info"], "paths": paths}
    small["components"] = {"schemas": kept}
    for name in kept.keys() & set(REQUESTS):
        _serve_only(kept[name], model)
    if "CreateResponseBody" in kept:
        _of_text(kept["CreateResponseBody"])
    return small


def _without_bare_discriminator(schema: dict[str, Any]) -> dict[str, Any]:
    named = schema.get("discriminator")
    if isinstance(named, dict) and "propertyName" in named and not named.get("mapping"):
        del schema["discriminator"]
    return schema


def _operation(operation: dict[str, Any]) -> dict[str, Any]:
    """Without OpenAI's security and x- fields, which are of no concern to a server without keys."""
    wanted = ("operationId", "parameters", "requestBody", "responses")
    return {key: value for key, value in operation.items() if key in wanted}


def _serve_only(schema: Any, model: str) -> None:
    """The one model that is served, wherever the body names one."""
    for part in [schema, *schema.get("allOf", [])]:
        if "model" in part.get("properties", {}):
            part["properties"]["model"] = {"type": "string", "enum": [model]}


def _of_text(schema: Any) -> None:
    """The fields ASKED, input among them."""
    fields = schema["properties"] | {"input": {"type": "string", "minLength": 1, "maxLength": 100}}
    schema["properties"] = {name: fields[name] for name in ASKED}
    schema["required"], schema["additionalProperties"] = ["model", "input"], False


def _reached(root: Any, schemas: dict[str, Any]) -> list[str]:
    names: list[str] = []
    stack = [root]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            reference = value.get("$ref", "")
            name = reference.rpartition("/")[2]
            if isinstance(reference, str) and name in schemas and name not in names:
                names.append(name)
                stack.append(schemas[name])
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)
    return sorted(names)
