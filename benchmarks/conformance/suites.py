"""Each suite: run it against a server, tell what came out as a row."""

from __future__ import annotations

import asyncio
import json
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any

import httpx

from benchmarks.conformance.schemas import OPENAI, RESPONSES, trimmed

Row = dict[str, Any]
NOT_OURS = {
    "chat-image-input": "the models are text-only",
    "chat-reasoning-summary": "for OpenAI's reasoning models; the suite skips it",
    "image-input": "the models are text-only",
    "reasoning-summary": "for OpenAI's reasoning models; the suite skips it",
}
STREAMS = 8
REPEATS = 5
UNENDED = (
    "finish_reason: expected 'stop', got 'length'",
    "expected status='completed', got 'incomplete'",
)


def llm_comply(programs: Path, url: str, name: str, api: str = "openai-chat") -> Row:
    """llm-comply's tests of an API: `openai-chat`, or `open-responses`, which is the Responses API.

    Some ask for an answer that ends by itself, which a small model does not always give at temperature 1: all
    are repeated when that is what one complains about, and nothing else.
    """
    command = [str(programs / "llm-comply"), "--format", api, "-u", f"{url}/v1", "-k", "none"]
    runs = 0
    while True:
        runs += 1
        done = subprocess.run([*command, "-m", name, "--json"], capture_output=True, text=True, check=False)
        document = json.loads(done.stdout)
        others = {r["id"]: r.get("errors") for r in document["results"] if r["status"] != "passed"}
        if runs == REPEATS or not any(
            len(found or ()) == 1 and found[0] in UNENDED for found in others.values()
        ):
            break
    return {
        "suite": f"llm-comply {api}",
        "result": f"{document['summary']['passed']} of {document['summary']['total']}, in run {runs}",
        "others": {test: NOT_OURS.get(test, errors) for test, errors in others.items()},
        "held": others.keys() <= NOT_OURS.keys(),
    }


def own_schema(programs: Path, url: str, name: str, examples: int) -> Row:
    """Schemathesis on the server's own /openapi.json, while good streams run; no 5xx, none of them lost."""
    good = _GoodStreams(url, name)
    options = ["--phases", "coverage,fuzzing", "--checks", "not_a_server_error"]
    report = _schemathesis(programs, [f"{url}/openapi.json", *options, "-n", str(examples)])
    streams, whole = good.stop()
    failures = report["test_cases"]["with_failures"]
    return {
        "suite": "schemathesis, /openapi.json",
        "result": f"{report['test_cases']['generated']} cases, {failures} server errors; "
        f"{whole} of {streams} streams complete meanwhile",
        "held": not failures and report["complete"] and streams == whole and _ready(url),
    }


PUBLISHED = {
    "OpenAI": ("openai_chat.json", OPENAI),
    "Open Responses": ("openresponses.json", RESPONSES),
}


def published_schema(programs: Path, url: str, name: str, examples: int, scratch: Path, whose: str) -> Row:
    """Schemathesis on a published description: every answer as it says."""
    file, operations = PUBLISHED[whose]
    published = next(programs.parent.glob(f"lib/*/site-packages/llm_comply/specs/{file}"))
    small = scratch / file
    small.write_text(json.dumps(trimmed(published, operations, name)))
    before = _answered(url)
    checks = "not_a_server_error,response_schema_conformance,content_type_conformance"
    options = ["--url", f"{url}/v1", "--phases", "examples,fuzzing", "--checks", checks]
    report = _schemathesis(programs, [str(small), *options, "-n", str(examples)])
    failures, cases = report["test_cases"]["with_failures"], report["test_cases"]["generated"]
    return {
        "suite": f"schemathesis, {whose}'s published description".replace("s's", "s'"),
        "result": f"{cases} cases ({_answered(url) - before} answered with text), {failures} violations",
        "held": not failures and report["complete"] and _ready(url),
    }


def promtool(program: Path, url: str) -> Row:
    """Prometheus' own opinion of the names, types and helps."""
    text = httpx.get(f"{url}/metrics").text
    command = [str(program), "check", "metrics"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    complaints = (done.stdout + done.stderr).strip().splitlines()
    families = text.count("# TYPE")
    return {
        "suite": "promtool check metrics",
        "result": f"{len(complaints)} complaints about {families} families",
        "others": dict(enumerate(complaints[:10])),
        "held": not complaints and done.returncode == 0,
    }


def _schemathesis(programs: Path, arguments: list[str]) -> Any:
    fixed = ["--seed", "1", "-w", "2", "--no-color", "--warnings", "off", "--generation-database", "none"]
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.json"
        fixed += ["--report", "json", "--report-json-path", str(report)]
        command = [str(programs / "schemathesis"), "run", *arguments, *fixed]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not report.exists():
            raise RuntimeError(f"schemathesis failed: {done.stdout[-1000:]}{done.stderr[-1000:]}")
        if done.returncode:
            print(done.stdout[-4000:])
        return json.loads(report.read_text())


def _ready(url: str) -> bool:
    return httpx.get(f"{url}/health/ready").status_code == 200


def _answered(url: str) -> int:
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    counts = (line for line in lines if line.startswith("lathe_requests_total") and 'outcome="ok"' in line)
    return int(sum(float(line.split()[-1]) for line in counts))


class _GoodStreams:
    """Eight at a time, again and again, until told to stop."""

    def __init__(self, url: str, name: str) -> None:
        self._url = url
        self._body = {"model": name, "prompt": "The", "max_tokens": 100, "ignore_eos": True, "stream": True}
        self._stopping = False
        self._streams = self._whole = 0
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()

    def stop(self) -> tuple[int, int]:
        """(streams, those that ended as they should)."""
        self._stopping = True
        self._thread.join()
        return self._streams, self._whole

    async def _run(self) -> None:
        async with httpx.AsyncClient(base_url=self._url, timeout=120) as http:
            while not self._stopping:
                streams = [self._one(http) for _ in range(STREAMS)]
                ends = await asyncio.gather(*streams, return_exceptions=True)
                self._streams += len(ends)
                self._whole += sum(end == "data: [DONE]" for end in ends)
                await asyncio.sleep(1)

    async def _one(self, http: httpx.AsyncClient) -> str:
        async with http.stream("POST", "/v1/completions", json=self._body) as response:
            lines = [line async for line in response.aiter_lines() if line]
        return lines[-1]
