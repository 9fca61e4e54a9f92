"""Where the time of our own graph goes: ONNX Runtime's profile, by operator."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from lathe.artefact.onnx.runner import OnnxRunner

_WARM_UP, _STEPS = 4, 32


def by_operator(graph: Path, prompts: np.ndarray, threads: int) -> dict[str, Any]:
    """Microseconds per decode step of all nodes of an operator, after prompts [B, S].

    `step_us` is a whole run of the session with the profiler on.
    """
    batch, length = prompts.shape
    runner = OnnxRunner(graph, max_batch=batch, max_length=length + _STEPS + _WARM_UP, threads=threads)
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder) / "profile")
        runner.session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        for slot, prompt in enumerate(prompts):
            runner.prefill(slot, prompt)
        for _ in range(_WARM_UP + _STEPS):
            runner.decode(prompts[:, -1])
        events = json.loads(Path(runner.session.end_profiling()).read_text())
    return _summed(events, batch)


def _summed(events: list[dict[str, Any]], batch: int) -> dict[str, Any]:
    """Of the last `_STEPS` runs."""
    runs = sorted((e for e in events if e["name"] == "model_run"), key=lambda e: e["ts"])[-_STEPS:]
    start = runs[0]["ts"]
    operators: dict[str, float] = defaultdict(float)
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time") and event["ts"] >= start:
            operators[event["args"]["op_name"]] += event["dur"] / _STEPS
    ordered = dict(sorted(operators.items(), key=lambda item: -item[1]))
    step = float(np.median([run["dur"] for run in runs]))
    return {"batch": batch, "step_us": step, "operators_us": {k: round(v, 1) for k, v in ordered.items()}}
