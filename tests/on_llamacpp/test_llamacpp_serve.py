"""`lathe serve --engine llamacpp` as a command, asked by OpenAI's client."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai
import pytest

pytest.importorskip("llama_cpp")

from lathe.artefact.manifest import write_manifest
from support.tiny_server import save_checkpoint


@contextmanager
def served(model: Path, *options: str) -> Iterator[str]:
    command = [
        sys.executable,
        "-m",
        "lathe",
        "serve",
        str(model),
        "--engine",
        "llamacpp",
        "--port",
        "0",
        "--json",
    ]
    process = subprocess.Popen([*command, "--threads", "1", *options], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["url"]
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_any_file_is_served_as_it_is(files: dict[str, Path]) -> None:
    with served(files["Q8_0"], "--max-batch", "2") as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="x")
        messages = [{"role": "user", "content": "The quick brown fox"}]
        ask = {"model": "tiny-Q8_0", "messages": messages, "max_tokens": 12, "temperature": 0}
        whole = client.chat.completions.create(**ask).choices[0].message.content  # type: ignore[call-overload]
        stream = client.chat.completions.create(**ask, stream=True)  # type: ignore[call-overload]
        assert whole
        assert "".join(part.choices[0].delta.content or "" for part in stream if part.choices) == whole
        metrics = httpx.get(f"{url}/metrics").text
    assert 'lathe_model_info{backend="llamacpp",digest=' in metrics
    assert 'lathe_kv_cache_bytes_per_token{model="tiny-Q8_0"} 1024.0' in metrics
    assert 'lathe_requests_total{endpoint="chat",model="tiny-Q8_0",outcome="ok"} 2.0' in metrics


def test_an_artefact_is_served_by_its_export(files: dict[str, Path], tmp_path: Path) -> None:
    out = save_checkpoint(tmp_path / "out")
    (out / "model.gguf").write_bytes(files["F16"].read_bytes())
    write_manifest(out)
    with served(out) as url:
        answer = httpx.post(f"{url}/v1/completions", json={"model": "out", "prompt": "The", "max_tokens": 5})
        assert answer.json()["usage"]["completion_tokens"] == 5


def test_a_directory_without_an_export_says_how_to_get_one(tmp_path: Path) -> None:
    out = save_checkpoint(tmp_path / "out")
    write_manifest(out)
    command = [sys.executable, "-m", "lathe", "serve", str(out), "--engine", "llamacpp"]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), timeout=60)
    assert done.returncode == 1
    assert "holds no GGUF export (model.gguf)" in done.stderr.splitlines()[-1]
