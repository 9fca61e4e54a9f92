"""A clock that never drifts: every model takes what its plan says, so that tests depend on no machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from lathe.artefact.plan import Plan
from lathe.compressor.latency import session, table
from lathe.compressor.latency.backends.onnx import OnnxBackend
from lathe.compressor.latency.bench import Timing
from lathe.compressor.latency.table import features
from lathe.compressor.latency.workload import Workload

TERMS = np.array([1.0, 0.0, 0.5, 0.1, 0.05, 0.2, 0.01])
"""In the order of the table's terms; the head takes nothing here."""
FACTORS = {"tpot": 1.0, "ttft": 7.0}
SHARES = {8: 0.5, 4: 0.3}
"""What a term takes in so many bits, as a share of what it takes when it is not rounded."""


def milliseconds(plan: Plan, metric: str = "tpot") -> float:
    return undisturbed(plan) * FACTORS[metric]


def undisturbed(plan: Plan) -> float:
    """Milliseconds of a decode step, without the head."""
    names = {bits: [f"{term}@{bits}" for term in table.TERMS[1:]] for bits in SHARES}
    rounded = [share * float(features(plan, 1, names[bits]) @ TERMS[1:]) for bits, share in SHARES.items()]
    return float(features(plan) @ TERMS) + sum(rounded)


def prepare(_: OnnxBackend, directory: Path, workload: Workload, threads: int | None) -> Callable[[], float]:
    model = onnx.load(directory / "model.onnx", load_external_data=False)
    plan = next(entry.value for entry in model.metadata_props if entry.key == "lathe.plan")
    return partial(milliseconds, Plan.from_json(json.loads(plan)), workload.metric)


def take_turns(systems: Mapping[str, Callable[[], float]], **_: Any) -> dict[str, Timing]:
    return {name: Timing([step()], [[step()]]) for name, step in systems.items()}


PATCHES = ((OnnxBackend, "prepare", prepare), (session, "take_turns", take_turns))


def hold(patch: pytest.MonkeyPatch) -> None:
    """For tests in this process, which undo it."""
    for place, name, value in PATCHES:
        patch.setattr(place, name, value)


def install() -> None:
    """For processes of their own."""
    for place, name, value in PATCHES:
        setattr(place, name, value)
