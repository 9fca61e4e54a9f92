"""vLLM as a backend where it is not installed. What it measures is tested where it is, in tests/on_vllm."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from lathe.artefact.errors import UserError
from lathe.compressor.latency.backend import backends
from lathe.compressor.latency.workload import Workload
from support.compress_command import lathe
from support.tiny_llama import PLANS, checkpoint


@pytest.fixture(autouse=True)
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)


def test_an_absent_vllm_is_named_with_the_remedy(tmp_path: Path) -> None:
    backend = backends.get("vllm")
    backend.build(tmp_path, checkpoint(tmp_path / "dense"), PLANS["mixed"], 4)
    for attempt in (backend.versions, lambda: backend.prepare(tmp_path, Workload(), None)):
        with pytest.raises(UserError, match=r"vLLM is not installed.*pip install 'lathe\[vllm\]'"):
            attempt()


def test_the_command_stops_before_it_reads_the_model(tmp_path: Path) -> None:
    options = ["--backend", "vllm", "--export", "checkpoint,vllm", "-o", str(tmp_path / "out")]
    done = lathe("compress", str(tmp_path / "absent"), "--target-speedup", "2x", *options)
    assert done.exit_code == 1
    assert "vLLM is not installed" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_built_model_is_a_config_of_the_plan(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "dense")
    (tmp_path / "built").mkdir()
    backends.get("vllm").build(tmp_path / "built", source, PLANS["mixed"], 4)
    assert [file.name for file in (tmp_path / "built").iterdir()] == ["config.json"]
    config = json.loads((tmp_path / "built" / "config.json").read_text())
    assert config["dropped_blocks"] == {"attention": [0, 2], "ffn": [2, 3]}
