"""GuideLLM (https://github.com/vllm-project/guidellm), installed elsewhere: an independent second opinion.

It gets the same prompts, as a file, and its times of every request become our samples. Only its command,
its scenario file and its JSON are used, all of which change between its minor versions.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from lathe.artefact.errors import UserError
from lathe.serving.loadtest.address import PATHS
from lathe.serving.loadtest.client import Target
from lathe.serving.loadtest.engine import RoundSpec, engines
from lathe.serving.loadtest.load import Load
from lathe.serving.loadtest.measure import Round
from lathe.serving.loadtest.runner import warm_up
from lathe.serving.loadtest.sample import Sample

SERIES = "0.8"
DEFINITIONS = {
    "ttft_ms": "time to first token: request sent to first token seen (guidellm's time_to_first_token_ms)",
    "tpot_ms": "time per output token after the first: (last token - first token) / (output tokens - 1), per "
    "request (guidellm's inter_token_latency_ms; its time_per_output_token_ms counts the first token too)",
    "itl_ms": "guidellm does not tell the gaps between the tokens of a request",
    "e2e_ms": "end to end: request sent to last token seen (guidellm's request_latency runs on to the end "
    "of the stream)",
    "own_summary": "guidellm's own mean and median, by its definitions; its inter_token_latency_ms weighs a "
    "request by its tokens",
}
SUMMARIES = (
    "time_to_first_token_ms",
    "inter_token_latency_ms",
    "time_per_output_token_ms",
    "request_latency",
    "output_tokens_per_second",
)


@dataclass(frozen=True)
class GuideLLM:
    """Sends and times rounds with the guidellm at `program`, a process for each."""

    program: str
    version: str

    @property
    def name(self) -> str:
        return f"guidellm {self.version}"

    @property
    def definitions(self) -> Mapping[str, str]:
        return DEFINITIONS

    def check(self, load: Load) -> None:
        if load.trace is not None or load.ramp_to is not None or load.duration_s is not None:
            raise UserError(
                "--engine guidellm sends a number of requests, by --concurrency or --rate",
                "Drop --trace, --ramp-to and --duration, or the engine.",
            )

    async def round(self, spec: RoundSpec) -> Round:
        load, seed = spec.load, spec.seed
        await warm_up(spec)
        with tempfile.TemporaryDirectory(prefix="lathe-guidellm-") as made:
            place = Path(made)
            chosen = list(islice(spec.prompts(seed), load.requests))
            lines = [json.dumps({"prompt": p, "output_tokens_count": load.output_tokens}) for p in chosen]
            (place / "prompts.jsonl").write_text("\n".join(lines) + "\n")
            (place / "scenario.json").write_text(json.dumps(scenario(spec.target, load, seed, place)))
            await self._run(place)
            one = read_report(place / "report.json", load)
        for sample in one.samples:
            spec.on_done(sample)
        return one

    async def _run(self, place: Path) -> None:
        """Runs guidellm in a session of its own: it starts workers, which have to end with it."""
        with (place / "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(self.program, "run", "--scenario", str(place / "scenario.json"), "--disable-console"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(place / "cache")},
                start_new_session=True,
            )
            try:
                status = await process.wait()
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        if status or not (place / "report.json").exists():
            raise UserError(f"{self.name} ended with status {status}: {_last_words(place / 'log')}")


@engines.register("guidellm")
def make(program: str | None) -> GuideLLM:
    """Returns the guidellm at `program`, or the one on PATH.

    Raises:
        UserError: there is none, or it is not of SERIES.
    """
    found = shutil.which(program or "guidellm")
    if found is None:
        raise UserError(f"guidellm is not {f'at {program}' if program else 'on PATH'}", _remedy())
    try:
        told = subprocess.run(
            [found, "--version"], capture_output=True, text=True, check=False, timeout=120
        ).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"{found} does not run: {error}", _remedy()) from error
    version = re.search(r"version:? *([0-9][\w.]*)", told)
    if version is None or not version[1].startswith(f"{SERIES}."):
        raise UserError(f"{found} is not guidellm {SERIES} but: {told.strip()[:80] or 'silent'}", _remedy())
    return GuideLLM(found, version[1])


def scenario(target: Target, load: Load, seed: int, place: Path) -> dict[str, Any]:
    """Returns the scenario file of a round: our prompts from a file, and the body of our own requests."""
    if target.version != "/v1" or target.query:
        raise UserError(
            f"--engine guidellm asks under /v1 only, and this is {target.place('')}", "Leave the engine out."
        )
    profile = (
        {"kind": "concurrent", "streams": [load.concurrency]}
        if load.rate is None
        else {"kind": load.arrival, "rate": [load.rate]}
    )
    backend = {
        "kind": "openai_http",
        "target": target.url,
        "model": target.model,
        "request_format": f"/v1{PATHS[load.endpoint]}",
        "api_key": target.api_key,
        "timeout": load.timeout_s,
        "validate_backend": False,
        "extras": {"body": {"temperature": 0, **target.dialect.extra}},
    }
    spec = {
        "backend": backend,
        "profile": profile,
        "constraints": [{"kind": "max_requests", "count": load.requests}],
        "data": [{"kind": "json_file", "path": str(place / "prompts.jsonl")}],
        "seed": {"kind": "static", "value": seed},
        "outputs": [{"kind": "json", "path": str(place / "report.json")}],
    }
    return {"spec": spec}


def read_report(path: Path, load: Load) -> Round:
    """Reads a round from guidellm's JSON, which lists failed requests; its exit status is always 0.

    Raises:
        UserError: it is not the JSON of the known series, or requests are missing.
    """
    try:
        benchmark = json.loads(path.read_text())["benchmarks"][0]
        totals, requests = benchmark["metrics"]["request_totals"], benchmark["requests"]
        ended = [one for kind in ("successful", "errored", "incomplete") for one in requests[kind]]
        start = min((one["request_start_time"] for one in ended), default=0.0)
        samples = [_sample(one, start, load) for one in requests["successful"]]
        for kind in ("errored", "incomplete"):
            samples += [_failed(one, start, kind) for one in requests[kind]]
        own = {name: _own(benchmark["metrics"][name]["successful"]) for name in SUMMARIES}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"guidellm's report is not that of {SERIES}: {error!r}", _remedy()) from error
    if totals["total"] != len(samples):
        raise UserError(f"guidellm counts {totals['total']} requests and reports {len(samples)}")
    short = (load.requests or 0) - len(samples)
    reason = f"guidellm left out {short} of {load.requests} requests" if short > 0 else None
    return Round(sorted(samples, key=lambda sample: sample.sent_s), None, reason, own)


def _sample(one: Mapping[str, Any], start: float, load: Load) -> Sample:
    sent, timings = one["request_start_time"], one["info"]["timings"]
    marks = [timings["first_token_iteration"], timings["last_token_iteration"]]
    return Sample(
        sent_s=sent - start,
        chunk_s=[mark - sent for mark in marks],
        end_s=one["request_latency"],
        prompt_tokens=one["prompt_tokens"],
        output_tokens=one["output_tokens"],
        asked_tokens=load.output_tokens,
        ends_only=True,
    )


def _failed(one: Mapping[str, Any], start: float, kind: str) -> Sample:
    message = str(one["info"].get("error") or kind)
    status = re.search(r"\b[45]\d\d\b", message)
    return Sample(
        sent_s=one["request_start_time"] - start,
        end_s=one["request_end_time"] - one["request_start_time"],
        error_kind=f"http_{status[0]}" if status else kind,
        error=message[:300],
    )


def _own(found: Mapping[str, Any] | None) -> dict[str, float] | None:
    return None if found is None else {name: round(found[name], 4) for name in ("mean", "median")}


def _last_words(log: Path) -> str:
    lines: Sequence[str] = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return " / ".join(lines[-2:])[-600:] or "it printed no error"


def _remedy() -> str:
    return (
        "Install it in an environment of its own: python3 -m venv .venv-guidellm && .venv-guidellm/bin/pip "
        f"install 'guidellm=={SERIES}.*' (torch first, its CPU build where there is no GPU), and give "
        "--guidellm .venv-guidellm/bin/guidellm."
    )
