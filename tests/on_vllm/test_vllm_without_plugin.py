"""vLLM without any plugin: what its transformers back end makes of the modelling file in the checkpoint."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from answers import NEW, Answer, distance, prompts
from test_vllm_parity import EXACT, TINY

from conftest import ENVIRONMENT
from lathe.compressor.export.checkpoint import export_checkpoint
from lathe.compressor.model.checkpoint import Checkpoint
from support.tiny_llama import PLANS, checkpoint, pruned, reference

SERVED, REFUSED = ["ffn", "groups", "no ffn last"], "no attention middle"
SCRIPT = """
import json, sys
from answers import ask, engine, prompts
for directory in sys.argv[1:]:
    try:
        with engine(directory, model_impl="transformers", trust_remote_code=True) as llm:
            print(json.dumps([[answer.new, answer.scored] for answer in ask(llm, prompts())]))
    except ValueError as error:
        print(json.dumps(str(error)))
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return checkpoint(tmp_path_factory.mktemp("dense"), **TINY)


@pytest.fixture(scope="module")
def given(source: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What a process without our plugin prints for each plan."""
    root, names = tmp_path_factory.mktemp("plans"), [*SERVED, REFUSED]
    directories = {name: root / name.replace(" ", "_") for name in names}
    for name, directory in directories.items():
        export_checkpoint(directory, pruned(source, PLANS[name]))
    paths = [Path(__file__).parent, Path(__file__).parents[1], Path(__file__).parents[2]]
    environment = (
        os.environ
        | ENVIRONMENT
        | {
            "VLLM_PLUGINS": "",
            "HF_MODULES_CACHE": str(root / "modules"),
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
        }
    )
    command = [sys.executable, "-c", SCRIPT, *map(str, directories.values())]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith(("[", '"'))]
    assert len(lines) == len(names), done.stderr
    return dict(zip(names, lines, strict=True))


@pytest.mark.parametrize("name", SERVED)
def test_layers_with_attention_are_served(given: dict[str, object], source: Checkpoint, name: str) -> None:
    answers = [
        Answer(prompt, new, {int(i): {int(t): p for t, p in row.items()} for i, row in scored.items()}, 0)
        for prompt, (new, scored) in zip(prompts(), given[name], strict=True)
    ]
    found = distance(reference(source, PLANS[name]), answers)
    assert [len(answer.new) for answer in answers] == [NEW] * len(answers)
    assert found.misses == []
    assert found.largest < EXACT


def test_a_layer_without_attention_is_refused_at_the_start(given: dict[str, object]) -> None:
    assert "does not dispatch through the Transformers attention interface" in str(given[REFUSED])
