"""C16: artefacts of every family in a process without Lathe, on whatever transformers is installed: `make
check-compat` runs these on the oldest and the newest. Logits of a forward in pieces are what tells: a random
model that repeats one token gives the same tokens with a broken cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from lathe.compressor.export.checkpoint import export_checkpoint
from support import stranger
from support.family_checks import TORCH, logits
from support.shown import Shows
from support.tiny_families import CASES, FIRST, family_checkpoint, first_of_each, planned, zeroed
from support.tiny_llama import tokens

SLOW = [(case, plan) for case in CASES for plan in ("mixed", "groups")]
QUICK = [(case, "mixed") for case in FIRST.values()]
EVERY = [
    pytest.param(case, plan, marks=[] if (case, plan) in QUICK else pytest.mark.slow) for case, plan in SLOW
]


def artefact(directory: Path, case: str, plan: str) -> None:
    """A subnet's checkpoint, and beside it what transformers' own model of the dense one gives."""
    source = family_checkpoint(directory / "dense", case)
    subnet, ids = planned(source, plan), tokens(3, 20)
    export_checkpoint(directory / "subnet", first_of_each(source, subnet))
    expected = logits(zeroed(source, subnet), ids).contiguous()
    save_file({"ids": ids.contiguous(), "logits": expected}, directory / "subnet" / "expected.safetensors")


class Strangers:
    """One process for all the cases that a run asks for: loading libraries takes longer than checking."""

    def __init__(self, directory: Path, asked: list[tuple[str, str]]) -> None:
        places = {f"case{number}": case for number, case in enumerate(asked)}
        for place, (case, plan) in places.items():
            artefact(directory / place, case, plan)
        environment = os.environ | {"HF_MODULES_CACHE": str(directory / "modules"), "HF_HUB_OFFLINE": "1"}
        environment.pop("PYTHONPATH", None)
        subnets = [str(directory / place / "subnet") for place in places]
        command = [sys.executable, stranger.__file__, *subnets]
        done = subprocess.run(
            command, env=environment, cwd=directory, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, done.stderr
        documents = [json.loads(line) for line in done.stdout.splitlines()]
        self.found: dict[tuple[str, str], dict[str, Any]] = {
            case: document["checks"] for case, document in zip(places.values(), documents, strict=True)
        }


@pytest.fixture(scope="module")
def strangers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Strangers]:
    mine = (item for item in request.session.items if item.module is request.module)
    calls = [item.callspec.params for item in mine if hasattr(item, "callspec")]
    asked = dict.fromkeys((call["case"], call["plan"]) for call in calls)
    return Strangers(tmp_path_factory.mktemp("strangers"), list(asked))


@pytest.mark.parametrize(("case", "plan"), EVERY)
def test_c16_every_way_to_use_the_cache_is_right(
    strangers: Strangers, case: str, plan: str, shows: Shows
) -> None:
    near, found = shows("checkpoint", case), strangers.found[case, plan]
    assert "load" not in found, found["load"]
    near(max(value for value in found.values() if isinstance(value, float)))
    wrong = {name: value for name, value in found.items() if not right(value)}
    assert not wrong


def right(value: Any) -> bool:
    """Of what a check of the stranger tells: a difference, a verdict, or an error's text."""
    return value if isinstance(value, bool) else isinstance(value, float) and value <= TORCH
