"""The tests that OpenAI's Python client is generated with, from its source distribution, on our server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.conformance.pytests import outcomes

MODELS = ("gpt-3.5-turbo-instruct", "gpt-6-astra")
"""What the tests ask for."""
FILES = ("test_completions.py", "chat/test_completions.py", "test_models.py")
SELECTED = "Completions and create or Models and (list or retrieve) and not path_params"
"""Creating and listing; tests of path parameters never reach a server.

Not run of these files: what is about chat completions that the server stored (retrieve, update, list, delete)
and deleting models. Of test_responses.py none: its tests create a response with no model and no input, or
with all that OpenAI stores and hosts, or are about stored ones.
"""
TESTS = 110
PREFIX = "tests.api_resources."
NOT_OURS = {
    f"{module}.Test{client}Completions.test_method_create_with_all_params_overload_{overload}[{mode}]": reason
    for module, reason in (
        ("test_completions", "a suffix, and a logit_bias whose key is no token"),
        ("chat.test_completions", "sound, functions, moderation and a web search in one request"),
    )
    for client, modes in (("", ("loose", "strict")), ("Async", ("loose", "strict", "aiohttp")))
    for overload in (1, 2)
    for mode in modes
}


def generated_tests(programs: Path, sources: Path, url: str, scratch: Path) -> dict[str, Any]:
    """Run them; a row. `sources`: the unpacked source distribution. `url` has to serve the MODELS."""
    arguments = [*(f"tests/api_resources/{file}" for file in FILES), "-k", SELECTED]
    found = outcomes(
        programs / "python", sources, arguments, {"TEST_API_BASE_URL": f"{url}/v1"}, scratch / "openai.xml"
    )
    others = {test.removeprefix(PREFIX): why for test, why in found.items() if why}
    return {
        "suite": f"{sources.name}, its generated tests",
        "result": f"{len(found) - len(others)} of {len(found)}",
        "others": {test: f"{NOT_OURS.get(test, 'not expected')}: {why}" for test, why in others.items()},
        "held": others.keys() <= NOT_OURS.keys() and len(found) == TESTS,
    }
