"""OpenAI's published API description, trimmed to what this server answers.

The file comes with llm-comply, which bundles it (MIT); nothing is fetched.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PATHS = {
    "/completions": ("post",),
    "/chat/completions": ("post",),
    "/models": ("get",),
    "/models/{model}": ("get",),
}


def trimmed(published: Path, model: str) -> dict[str, Any]:
    """Four operations and the schemas that they need; every example asks for `model`."""
    document = json.loads(published.read_text(encoding="utf-8"))
    paths = {
        path: {method: _operation(document["paths"][path][method]) for method in methods}
        for path, methods in PATHS.items()
    }
    schemas = document["components"]["schemas"]
    kept = {name: schemas[name] for name in _reached(paths, schemas)}
    small = {"openapi": document["openapi"], "info": document["info"], "paths": paths}
    small["components"] = {"schemas": kept}
    for name in ("CreateCompletionRequest", "CreateChatCompletionRequest"):
        _serve_only(kept[name], model)
    return small


def _operation(operation: dict[str, Any]) -> dict[str, Any]:
    """Without OpenAI's security and x- fields, which are of no concern to a server without keys."""
    wanted = ("operationId", "parameters", "requestBody", "responses")
    return {key: value for key, value in operation.items() if key in wanted}


def _serve_only(schema: Any, model: str) -> None:
    """The one model that is served, wherever the body names one."""
    for part in [schema, *schema.get("allOf", [])]:
        if "model" in part.get("properties", {}):
            part["properties"]["model"] = {"type": "string", "enum": [model]}


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
