"""The load testers of others on our server: each counts tokens by itself, beside what our usage says."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from lathe.serving.loadtest.compare import run
from lathe.serving.loadtest.engine import find_load_tester
from lathe.serving.loadtest.load import Endpoint, Load
from lathe.serving.loadtest.prompts import PromptChoice
from lathe.serving.loadtest.testbed import Setup

REQUESTS, USERS, PROMPT, ANSWER = 8, 2, 32, 24
RETOKENIZED = 0.02
LIMIT_S = 600
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
"""aiperf 0.13 then takes the path of a tokenizer for a repository's name."""


def aiperf(
    program: Path, url: str, name: str, model: Path, endpoint: Endpoint, scratch: Path
) -> dict[str, Any]:
    """AIPerf with the model's own tokenizer; a row.

    It counts the tokens of an answer by cutting its text up again, which may give one more or less: generated
    tokens need not be those that a tokenizer would choose.
    """
    made = scratch / f"aiperf-{endpoint}"
    command: list[str] = [
        str(program),
        "profile",
        "--model",
        name,
        "--url",
        url,
        "--endpoint-type",
        endpoint,
        "--streaming",
        "--tokenizer",
        str(model.absolute()),
        "--concurrency",
        str(USERS),
        "--request-count",
        str(REQUESTS),
        "--isl",
        str(PROMPT),
        "--osl",
        str(ANSWER),
        "--extra-inputs",
        "ignore_eos:true",
        "--extra-inputs",
        "temperature:0",
        "--random-seed",
        "1",
        "--ui",
        "none",
        "--artifact-dir",
        str(made),
    ]
    variables = {key: value for key, value in os.environ.items() if key not in OFFLINE}
    done = subprocess.run(
        command, env=variables, capture_output=True, text=True, check=False, timeout=LIMIT_S
    )
    report = made / "profile_export_aiperf.json"
    if not report.exists():
        raise RuntimeError(f"aiperf wrote no report: {(done.stdout + done.stderr)[-2000:]}")
    found = json.loads(report.read_text())
    own, ours = (_average(found, key) for key in ("total_output_tokens", "total_usage_completion_tokens"))
    apart, answered = _average(found, "usage_discrepancy_count"), _average(found, "request_count")
    times = {key: _average(found, key) for key in ("time_to_first_token", "inter_token_latency")}
    return {
        "suite": f"aiperf {found.get('aiperf_version', '')}, {endpoint}".replace(" ,", ","),
        "result": f"{answered:g} of {REQUESTS} requests; {own:g} tokens by its count, {ours:g} by our usage",
        "held": answered == REQUESTS
        and ours == REQUESTS * ANSWER
        and abs(own / ours - 1) <= RETOKENIZED
        and not apart
        and not found.get("error_summary")
        and all(times.values()),
        **times,
    }


def guidellm(program: Path, url: str, endpoint: Endpoint) -> dict[str, Any]:
    """GuideLLM, as `lathe loadtest --engine guidellm` runs it; a row."""
    load = Load(concurrency=USERS, requests=REQUESTS, output_tokens=ANSWER, endpoint=endpoint)
    engine = find_load_tester("guidellm", str(program))
    system = run(url, load, setup=Setup(PromptChoice(PROMPT), engine=engine))["systems"]["server"]
    counted = system["output_tokens"]
    return {
        "suite": f"{engine.name}, {endpoint}",
        "result": f"{system['succeeded']} of {REQUESTS} requests, {counted} of {REQUESTS * ANSWER} tokens",
        "others": system["errors"],
        "held": system["succeeded"] == REQUESTS and counted == REQUESTS * ANSWER,
    }


def _average(found: dict[str, Any], key: str) -> float:
    return float((found.get(key) or {}).get("avg") or 0)
