"""The tests that OpenAI's Python client is generated with, from its source distribution, on our server."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

MODELS = ("gpt-3.5-turbo-instruct", "gpt-5.4", "gpt-4o-mini")
"""What the tests ask for."""
FILES = ("test_completions.py", "chat/test_completions.py", "test_models.py")
SELECTED = "TestCompletions and create or TestModels and (list or retrieve) and not path_params"
"""Creating and listing with the synchronous client; tests of path parameters never reach a server."""
TESTS = 46
NOT_OURS = {
    f"{module}.TestCompletions.test_method_create_with_all_params_overload_{overload}[{mode}]": reason
    for module, reason in (
        ("test_completions", "a suffix, and a logit_bias whose key is no token"),
        ("chat.test_completions", "sound, tools and a web search in one request"),
    )
    for overload in (1, 2)
    for mode in ("loose", "strict")
}


def generated_tests(programs: Path, sources: Path, url: str, scratch: Path) -> dict[str, Any]:
    """Run them; a row. `sources`: the unpacked source distribution. `url` has to serve the MODELS."""
    report = scratch / "openai-client.xml"
    files = [f"tests/api_resources/{file}" for file in FILES]
    options = ["-q", "--override-ini", "addopts=", "-k", SELECTED, f"--junit-xml={report}"]
    variables = os.environ | {"TEST_API_BASE_URL": f"{url}/v1"}
    command = [(programs / "python").absolute(), "-m", "pytest", *files, *options]
    done = subprocess.run(command, cwd=sources, env=variables, capture_output=True, text=True, check=False)
    if not report.exists():
        raise RuntimeError(f"openai-python's tests did not run: {done.stdout[-1000:]}{done.stderr[-1000:]}")
    cases = list(ElementTree.parse(report).iter("testcase"))  # noqa: S314  written by pytest here
    others = {_name(case): _complaint(case) for case in cases if len(case)}
    return {
        "suite": "openai-python 3.3.1, its generated tests",
        "result": f"{len(cases) - len(others)} of {len(cases)}",
        "others": {test: f"{NOT_OURS.get(test, 'not expected')}: {why}" for test, why in others.items()},
        "held": others.keys() <= NOT_OURS.keys() and len(cases) == TESTS,
    }


def _name(case: ElementTree.Element) -> str:
    return f"{case.get('classname', '')}.{case.get('name')}".removeprefix("tests.api_resources.")


def _complaint(case: ElementTree.Element) -> str:
    """What the server answered, or what else went wrong."""
    return " ".join((case[0].get("message") or case[0].text or "skipped").split())[:200]
