"""The inputs of a run: facts by name, so that a later run can say what has changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import torch

from lathe.artefact.atomic_files import write_bytes
from lathe.artefact.command_options import recorded_flags
from lathe.compressor.model.checkpoint_fingerprint import weight_digests
from lathe.compressor.pipeline.options import CompressOptions
from lathe.compressor.pipeline.preflight_result import PreflightResult
from lathe.compressor.pipeline.run_context import RunContext
from lathe.compressor.pipeline.run_directory import RunDirectory, key

_FILE = "inputs"
_TEXT, _DRAWN = "the calibration text", {"--seed", "--calibration-tokens"}
"""The fact about the calibration text, and the options that decide which of its windows are drawn."""
_MERGED = {"target_latency_ms": "latency_limit_ms", "engine": "backend", "export": "exports"}
"""Options whose effective value is another attribute, because `_ABSORBED` options take part in it."""
_ABSORBED = {"target_throughput", "quantize", "bits", "kv_cache"}
_BY_CONTENT = {"model", "calibration", "domain", "evaluation", "vocabulary", "plan", "profile"}
"""Options that name files: the facts are what the files contain."""
_WORKLOAD = {"latency_metric", "batch_size", "context", "output_tokens"}
"""Options whose facts are those of the workload, which is fitted to the model."""
_WITHOUT_EFFECT = {"force"}
"""Options that results do not depend on."""


def text_key(preflight: PreflightResult, seed: int) -> str:
    """Returns a key of the calibration windows: of their tokens, or of how the model writes them."""
    text, source = preflight.texts.calibration, preflight.source
    what = [text.amount.windows, text.amount.window, seed] if text.windows is None else _digest(text.windows)
    return key(key(source.config, weight_digests(source)), what)


def resume(context: RunContext) -> None:
    """Notes what this run is of; says whether an earlier run is resumed, and what has changed since."""
    run_dir = context.run_dir
    now = json.loads(json.dumps(_facts(context.options, context.preflight)))
    if run_dir.resumed:
        usable = run_dir.has(f"calibration-{text_key(context.preflight, context.options.seed)}")
        context.progress.say(_resumed(run_dir, now, usable))
    write_bytes(run_dir.path / f"{_FILE}.json", json.dumps(now).encode())


def _resumed(run_dir: RunDirectory, now: Mapping[str, Any], usable: bool) -> str:
    """Returns the sentence about what an earlier run left. usable: whether its calibration is of use."""
    file = run_dir.path / f"{_FILE}.json"
    changes = ", ".join(_changes(json.loads(file.read_text()), now)) if file.exists() else ""
    if not changes:
        return f"resuming from {run_dir.path}"
    if usable:
        return f"resuming from {run_dir.path}, but {changes}: what depends on that is done again"
    return f"cannot resume from {run_dir.path}: {changes}. Starting again"


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Yields what has changed, each as a part of a sentence."""
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


def _facts(options: CompressOptions, preflight: PreflightResult) -> dict[str, Any]:
    """Returns everything that the run's results follow from, by the name that a user knows."""
    calibration, evaluation = preflight.texts.calibration.windows, preflight.texts.evaluation
    workload, vocabulary = asdict(preflight.benchmark.workload), preflight.vocabulary
    return {
        **_option_facts(options),
        "--latency-metric": workload.pop("metric"),
        **{f"--{name.replace('_', '-')}": value for name, value in workload.items()},
        "config.json": key(preflight.whole.config),
        **weight_digests(preflight.whole),
        "the kept vocabulary": key(vocabulary.kept.tolist()) if vocabulary else None,
        _TEXT: options.calibration if calibration is None else _digest(calibration),
        **{
            f"the text of the domain {name}": _digest(text.windows)
            for name, text in preflight.texts.domains.items()
            if text.windows is not None
        },
        "the evaluation text": None if evaluation is None else _digest(evaluation),
        "the plan": key(preflight.plan.to_json()) if preflight.plan else None,
        "the profile": key(options.profile.read_text()) if options.profile else None,
    }


def _option_facts(options: CompressOptions) -> dict[str, Any]:
    """Returns the effective values of the options that results depend on, by their flags."""
    elsewhere = _ABSORBED | _BY_CONTENT | _WORKLOAD | _WITHOUT_EFFECT
    flags = {name: flag for name, flag in recorded_flags(type(options)).items() if name not in elsewhere}
    values = {flag: getattr(options, _MERGED.get(name, name)) for name, flag in flags.items()}
    return values | {"--front": options.front}


def _digest(windows: torch.Tensor) -> str:
    """Returns a digest of tokens [n, T]."""
    digest = hashlib.blake2b(str(tuple(windows.shape)).encode(), digest_size=16)
    digest.update(windows.contiguous().numpy().tobytes())
    return digest.hexdigest()
