"""The artefact where Lathe is not installed: vLLM and the plugin that the artefact brings along."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import torch
import vllm
from openai import OpenAI
from transformers import AutoModelForCausalLM, AutoTokenizer

from conftest import ENVIRONMENT
from lathe.artefact.modeling import register, vllm_plugin

PROMPT = "The boy went to the"
START_SECONDS = 240


@pytest.fixture
def plain_vllm(tmp_path: Path, artefact: Path) -> Path:
    """Python of an environment with every package of this one but Lathe, and the artefact's plugin."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "plain"], check=True)
    (packages,) = (tmp_path / "plain" / "lib").glob("python*/site-packages")
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "lathe" not in entry.name and entry.name != "__pycache__":
            (packages / entry.name).symlink_to(entry)
    python = tmp_path / "plain" / "bin" / "python"
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--quiet",
        "--no-index",
        "--no-build-isolation",
        str(artefact / "vllm_plugin"),
    ]
    subprocess.run(install, check=True)
    return python


@contextmanager
def serving(python: Path, model: Path, log: Path) -> Iterator[str]:
    """vLLM's own OpenAI server on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | ENVIRONMENT
    environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1"
    command = [
        str(python),
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        str(model),
        "--served-model-name",
        "subnet",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--dtype",
        "float32",
        "--enforce-eager",
        "--max-model-len",
        "256",
    ]
    with log.open("w") as output:
        server = subprocess.Popen(
            command, cwd=log.parent, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            _wait(server, f"http://127.0.0.1:{port}/health", log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()
            server.wait(60)


def _wait(server: subprocess.Popen[bytes], health: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if httpx.get(health).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.5)
    pytest.fail(f"vLLM did not start:\n{log.read_text()[-4000:]}")


def test_lathe_cannot_be_imported_there(plain_vllm: Path, tmp_path: Path) -> None:
    for package in ("compressor", "serving"):
        done = subprocess.run(
            [str(plain_vllm), "-c", f"import {package}"], cwd=tmp_path, capture_output=True, text=True
        )
        assert "ModuleNotFoundError" in done.stderr


def test_the_openai_client_gets_the_models_own_answer(
    plain_vllm: Path, artefact: Path, tmp_path: Path
) -> None:
    with serving(plain_vllm, artefact, tmp_path / "server.log") as url:
        client = OpenAI(base_url=url, api_key="none")
        answer = client.completions.create(model="subnet", prompt=PROMPT, max_tokens=20, temperature=0)
        chat = client.chat.completions.create(
            model="subnet", messages=[{"role": "user", "content": "Hello"}], max_tokens=5
        )
    register()
    model = AutoModelForCausalLM.from_pretrained(artefact, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(artefact)
    ids = tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    expected = model.generate(ids, max_new_tokens=20, do_sample=False)[0, ids.shape[1] :]
    assert answer.choices[0].text == tokenizer.decode(expected, skip_special_tokens=True)
    assert chat.usage is not None
    assert 0 < chat.usage.completion_tokens <= 5


def test_a_vllm_that_it_was_not_made_for_is_named_when_our_checkpoint_is_read(
    artefact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "Lathe serves with vLLM 0.32 and 0.33, and this vLLM is 0.34.0"
    try:
        with monkeypatch.context() as patch, pytest.raises(ValueError, match=said):
            patch.setattr(vllm, "__version__", "0.34.0")
            vllm_plugin.register()
            vllm.EngineArgs(model=str(artefact)).create_model_config()
    finally:
        vllm_plugin.register()
    assert vllm.EngineArgs(model=str(artefact)).create_model_config().hf_config.model_type == "lathe_llama"
