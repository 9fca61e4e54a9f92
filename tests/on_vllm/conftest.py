"""vLLM reads its environment when it is imported: this is the one that every test here runs in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.shown import shows

__all__ = ["shows"]
DEMO = Path(__file__).parents[2] / "demo"
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # engines in this process start in about a second
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}
os.environ.update(ENVIRONMENT)


@pytest.fixture(scope="session")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained demo model, compressed by the command and exported for vLLM."""
    out = tmp_path_factory.mktemp("artefact") / "out"
    command = [
        str(Path(sys.executable).parent / "compress"),
        str(DEMO / "model"),
        "-o",
        str(out),
        "--keep",
        "60%",
        "--export",
        "checkpoint,vllm",
        "--calibration",
        str(DEMO / "heldout.txt"),
        "--calibration-tokens",
        "2048",
        "--evaluations",
        "1",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert f"serve it with `pip install {out}/vllm_plugin && vllm serve {out}`" in done.stdout
    return out
