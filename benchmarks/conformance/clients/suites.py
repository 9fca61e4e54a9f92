"""What others built on the API: run on a served model that calls tools, and their counts beside its own."""

from __future__ import annotations

import json
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.conformance.pytests import outcomes
from benchmarks.conformance.suites import Row

HERE = Path(__file__).parent
PACKAGES = {
    "langchain-openai": ("check_langchain.py", 47),
    "litellm": ("check_litellm.py", 16),
    "openai-agents": ("check_agents.py", 18),
    "pydantic-ai-slim": ("check_pydantic_ai.py", 18),
}
"""Of each its tests, and how many there are."""
OFFLINE = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
    "LANGSMITH_TRACING": "false",
}


def client_suite(python: Path, package: str, url: str, model: str, scratch: Path) -> Row:
    """A row: each test passes; the server answered as often and counted as many tokens as they were told."""
    file, tests = PACKAGES[package]
    usage = scratch / f"{package}.json"
    variables = OFFLINE | {"LATHE_URL": url, "LATHE_MODEL": model, "LATHE_USAGE": str(usage)}
    settings = ("asyncio_mode=auto", "asyncio_default_test_loop_scope=session")
    arguments = [file, "-c", "/dev/null", "--rootdir", "."]
    arguments += [word for setting in settings for word in ("--override-ini", setting)]
    before = counted(url)
    found = outcomes(python, HERE, arguments, variables, scratch / f"{package}.xml")
    after = counted(url)
    served = {key: after[key] - before[key] for key in after}
    told = json.loads(usage.read_text()) if usage.exists() else {}
    others: dict[str, Any] = {test: why for test, why in found.items() if why}
    if told != served:
        others["usage"] = f"the client was told of {told}, the server counted {served}"
    return {
        "suite": f"{package} {_version(python, package)}",
        "result": f"{sum(not why for why in found.values())} of {len(found)}; {served['requests']} answers, "
        f"{served['prompt']} + {served['completion']} tokens by our count",
        "others": others,
        "held": not others and len(found) == tests,
    }


def counted(url: str) -> dict[str, int]:
    """Answers, and tokens of prompts and of answers, since the server began."""
    names = {
        "lathe_requests_total": "requests",
        "lathe_prompt_tokens_total": "prompt",
        "lathe_generation_tokens_total": "completion",
    }
    total = dict.fromkeys(names.values(), 0)
    for family in text_string_to_metric_families(httpx.get(f"{url}/metrics").text):
        for sample in family.samples:
            if sample.name in names and sample.labels.get("outcome", "ok") == "ok":
                total[names[sample.name]] += int(sample.value)
    return total


def _version(python: Path, package: str) -> str:
    folders = [str(folder) for folder in python.parent.parent.glob("lib/*/site-packages")]
    return next((found.version for found in distributions(name=package, path=folders)), "")
