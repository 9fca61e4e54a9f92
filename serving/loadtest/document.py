"""The document of a load test: what was done, on what, and every raw sample."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from lathe.artefact.errors import UserError
from lathe.serving.loadtest.answered import answered_json
from lathe.serving.loadtest.measure import DEFINITIONS, LATENCIES, THROUGHPUTS, Round, summary
from lathe.serving.loadtest.memory import Memory
from lathe.serving.loadtest.sample import Sample
from lathe.serving.loadtest.slo import Slo

FORMAT = "lathe-loadtest/1"
SECRETS = ("--api-key", "--compare-api-key")
_OPTIONS = "--serve-options"


def system_json(
    url: str,
    model: str,
    rounds: Sequence[Round],
    memory: Memory,
    remarks: Sequence[str] = (),
    slo: Slo | None = None,
) -> dict[str, Any]:
    """Returns one system's part of the document: all rounds together, each round, and the raw samples.

    Args:
        url: the server's address, or the directory that was served.
        model: the model's name.
        rounds: all of its rounds.
        memory: the memory that it needed.
        remarks: how requests differed from the settings.
        slo: limits that its requests are held against.
    """
    return {
        "url": url,
        "model": model,
        "remarks": list(remarks),
        **summary(rounds),
        **answered_json(rounds, slo),
        "memory": memory.as_json(),
        "rounds": [round_json(one) for one in rounds],
    }


def round_json(one: Round) -> dict[str, Any]:
    """Returns the summary of one round, with its raw samples."""
    return {
        **summary([one]),
        **({"stopped_early": one.stopped_early} if one.stopped_early else {}),
        **({"own_summary": dict(one.own_summary)} if one.own_summary else {}),
        "samples": [_sample_json(sample) for sample in one.samples],
    }


def document(
    settings: Mapping[str, Any],
    systems: Mapping[str, dict[str, Any]],
    definitions: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Returns the whole document; with the systems "dense" and "subnet" it has their ratios, too.

    Args:
        settings: what is needed to send the same load again.
        systems: the parts of the systems, by name.
        definitions: those that are added to the usual ones or replace them.
    """
    whole = {
        **preamble(FORMAT, definitions or {}),
        "settings": dict(settings),
        "systems": dict(systems),
    }
    if {"dense", "subnet"} <= systems.keys():
        whole["ratios"] = ratios(systems["dense"], systems["subnet"])
    return whole


def preamble(form: str, definitions: Mapping[str, str]) -> dict[str, Any]:
    """Returns the beginning of every document of a load test."""
    return {
        "format": form,
        "command": redacted(sys.argv),
        "machine": machine(),
        "definitions": {**DEFINITIONS, **definitions},
    }


def ratios(dense: Mapping[str, Any], subnet: Mapping[str, Any]) -> dict[str, Any]:
    """Returns subnet / dense: median and range over the paired rounds; memory is one quotient."""
    pairs = list(zip(dense["rounds"], subnet["rounds"], strict=True))
    latency = [(f"{name}.{part}", name, part) for name in LATENCIES for part in ("p50", "p95", "mean")]
    found: dict[str, Any] = {}
    for name in THROUGHPUTS:
        found[name] = _spread([(a[name], b[name]) for a, b in pairs])
    for label, name, part in latency:
        found[label] = _spread([((a[name] or {}).get(part), (b[name] or {}).get(part)) for a, b in pairs])
    for name in sorted(dense["memory"].keys() & subnet["memory"].keys()):
        found[name] = _spread([(dense["memory"][name], subnet["memory"][name])])
    return {label: value for label, value in found.items() if value is not None}


def _spread(pairs: Sequence[tuple[float | None, float | None]]) -> dict[str, Any] | None:
    quotients = [round(b / a, 4) for a, b in pairs if a and b is not None]
    if not quotients:
        return None
    return {
        "median": round(median(quotients), 4),
        "min": min(quotients),
        "max": max(quotients),
        "rounds": quotients,
    }


def _sample_json(sample: Sample) -> dict[str, Any]:
    raw: dict[str, Any] = {
        "sent_s": round(sample.sent_s, 6),
        "late_ms": round(1e3 * sample.late_s, 3),
        "end_ms": round(1e3 * sample.end_s, 3),
        "chunks_ms": [round(1e3 * at, 3) for at in sample.chunk_s],
        "prompt_tokens": sample.prompt_tokens,
        "output_tokens": sample.output_tokens,
        "asked_tokens": sample.asked_tokens,
    }
    if sample.model is not None:
        raw["model"] = sample.model
    if sample.answer_s is not None:
        raw["answer_ms"] = round(1e3 * sample.answer_s, 3)
    if sample.untimed:
        raw["untimed"] = True
    if not sample.ok:
        raw["error"] = {"kind": sample.error_kind, "message": sample.error}
    return raw


def redacted(command: Sequence[str]) -> list[str]:
    """Returns the command line without the values of secret options, those for servers included."""
    shown: list[str] = []
    for word in command:
        name, equals, value = word.partition("=")
        if shown and shown[-1] in SECRETS:
            shown.append("***")
        elif name in SECRETS and equals:
            shown.append(f"{name}=***")
        elif shown and shown[-1] == _OPTIONS:
            shown.append(_redacted_line(word))
        elif name == _OPTIONS and equals:
            shown.append(f"{name}={_redacted_line(value)}")
        else:
            shown.append(word)
    return shown


def _redacted_line(options: str) -> str:
    return shlex.join(redacted(shlex.split(options)))


def machine() -> dict[str, Any]:
    """Describes the machine that sent the load (and served, where the servers were started here)."""
    return {
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cpus": psutil.cpu_count(),
        "usable_cpus": len(psutil.Process().cpu_affinity() or [])
        if sys.platform == "linux"
        else psutil.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "load_average": [round(value, 2) for value in psutil.getloadavg()],
        "python": platform.python_version(),
        "gpus": _gpu_names(),
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )


def _gpu_names() -> list[str]:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return [str(pynvml.nvmlDeviceGetName(handle)) for handle in handles]
    finally:
        pynvml.nvmlShutdown()


def write_document(whole: Mapping[str, Any], path: Path) -> None:
    """Writes the document in one step.

    Raises:
        UserError: the file cannot be written.
    """
    write_text(json.dumps(whole, indent=1) + "\n", path)


def write_text(text: str, path: Path) -> None:
    """Writes a file in one step: a reader sees the old file or the new one, never a part.

    Raises:
        UserError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"The report cannot be written to {path}: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
