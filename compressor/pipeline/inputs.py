"""What a run's results follow from: facts by name, so that a later run can tell what changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import torch

from lathe.artefact.atomic_files import write_bytes
from lathe.compressor.compute.progress import Progress
from lathe.compressor.model.checkpoint import Checkpoint
from lathe.compressor.model.checkpoint_fingerprint import weight_digests
from lathe.compressor.pipeline.options import Options
from lathe.compressor.pipeline.preflight import PreflightResult
from lathe.compressor.pipeline.run_directory import RunDirectory, key

_FILE = "inputs"
_TEXT, _DRAWN = "the calibration text", {"--seed", "--calibration-tokens"}
"""A fact, and those that say which windows of the text are drawn."""
_OPTIONS = {
    "--keep": "keep",
    "--target-latency": "latency_limit_ms",
    "--target-speedup": "target_speedup",
    "--target-memory": "target_memory",
    "--max-perplexity-increase": "perplexity_increase",
    "--backend": "backend",
    "--export": "exports",
    "--for": "destinations",
    "--tensor-parallel": "tensor_parallel",
    "--method": "method",
    "--threads": "threads",
    "--calibration-tokens": "calibration_tokens",
    "--evaluations": "evaluations",
    "--tolerance": "tolerance",
    "--seed": "seed",
    "--device": "device",
    "--front": "front",
}


def source_key(source: Checkpoint) -> str:
    """Identifies a checkpoint by what is read of it: its config, and its weights by their content."""
    return key(source.config, weight_digests(source))


def text_key(card: PreflightResult, seed: int) -> str:
    """Identifies the windows that a run calibrates on: by their tokens, or by how the model writes them."""
    text = card.texts.calibration
    what = [text.amount.windows, text.amount.window, seed] if text.windows is None else _digest(text.windows)
    return key(source_key(card.source), what)


def resume(options: Options, card: PreflightResult, run: RunDirectory, progress: Progress) -> None:
    """Tell whether an earlier run is gone on with, and what changed since; note what this one is of."""
    now = json.loads(json.dumps(_facts(options, card)))
    if run.resumed:
        progress.say(_told(run, now, run.has(f"calibration-{text_key(card, options.seed)}")))
    write_bytes(run.path / f"{_FILE}.json", json.dumps(now).encode())


def _told(run: RunDirectory, now: Mapping[str, Any], usable: bool) -> str:
    file = run.path / f"{_FILE}.json"
    changes = ", ".join(_changes(json.loads(file.read_text()), now)) if file.exists() else ""
    if not changes:
        return f"resuming from {run.path}"
    if usable:
        return f"resuming from {run.path}, but {changes}: what depends on that is done again"
    return f"cannot resume from {run.path}: {changes}. Starting again"


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    changed = {name for name in before.keys() | now.keys() if before.get(name) != now.get(name)}
    if changed & _DRAWN:
        changed.discard(_TEXT)
    for name in sorted(changed):
        old, new = before.get(name), now.get(name)
        if name.startswith("--"):
            yield f"{name} was {_shown(old)} and is {_shown(new)}"
        elif old is None or new is None:
            yield f"{name} {'was added' if old is None else 'is gone'}"
        else:
            yield f"{name} changed"


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value)) or "not given"
    return "not given" if value is None or value is False else str(value)


def _facts(options: Options, card: PreflightResult) -> dict[str, Any]:
    calibration, evaluation = card.texts.calibration.windows, card.texts.evaluation
    workload = asdict(card.meter.workload)
    return {
        **{option: getattr(options, name) for option, name in _OPTIONS.items()},
        "--latency-metric": workload.pop("metric"),
        **{f"--{name.replace('_', '-')}": value for name, value in workload.items()},
        "config.json": key(card.source.config),
        **weight_digests(card.source),
        _TEXT: options.calibration if calibration is None else _digest(calibration),
        "the evaluation text": None if evaluation is None else _digest(evaluation),
        "the plan": key(card.plan.to_json()) if card.plan else None,
        "the profile": key(options.profile.read_text()) if options.profile else None,
    }


def _digest(windows: torch.Tensor) -> str:
    """Of tokens [n, T]."""
    digest = hashlib.blake2b(str(tuple(windows.shape)).encode(), digest_size=16)
    digest.update(windows.contiguous().numpy().tobytes())
    return digest.hexdigest()
