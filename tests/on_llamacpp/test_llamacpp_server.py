"""llama-server on an artefact's GGUF file: LLAMA_SERVER says where the program is."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("llama_cpp")

from lathe.artefact.gguf_suffix import MODEL_FILE
from lathe.artefact.manifest import write_manifest
from lathe.artefact.modeling import register
from lathe.artefact.modeling.load import load_model
from lathe.artefact.tokenizer import open_tokenizer
from lathe.compressor.export.dense import write_artefact
from lathe.compressor.model.checkpoint import open_checkpoint
from support.tiny_families import first_of_each, planned
from support.tiny_llama import dense_model
from support.tiny_server import save_tokenizer

SERVER = os.environ.get("LLAMA_SERVER", "")
TOKENS, NEW = 320, 12

pytestmark = pytest.mark.skipif(not SERVER, reason="LLAMA_SERVER names no program")


@contextmanager
def served(file: Path, log: Path) -> Iterator[str]:
    """A server that has ended when the block has."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [SERVER, "--model", str(file), "--port", str(port), "--host", "127.0.0.1", "-t", "1"]
    with log.open("wb") as output:
        process = subprocess.Popen([*command, "-fa", "off"], stdout=output, stderr=subprocess.STDOUT)
        try:
            address = f"http://127.0.0.1:{port}"
            for _ in range(120):
                try:
                    urllib.request.urlopen(f"{address}/health", timeout=5).close()
                    break
                except OSError:
                    assert process.poll() is None, log.read_text()
                    time.sleep(0.5)
            yield address
        finally:
            process.terminate()
            process.wait(30)


def ask(address: str, path: str, **body: Any) -> Any:
    asked = urllib.request.Request(
        f"{address}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return json.load(answer)


def artefact(directory: Path) -> Path:
    """An uneven Llama with a tokenizer and a chat template, as `compress` writes one."""
    dense_model(vocab_size=TOKENS, max_position_embeddings=512).save_pretrained(directory / "dense")
    save_tokenizer(directory / "dense")
    source = open_checkpoint(str(directory / "dense"))
    out = directory / "artefact"
    out.mkdir()
    write_artefact(out, first_of_each(source, planned(source, "mixed")), "checkpoint")
    write_manifest(out)
    return out


def test_llama_server_answers_as_transformers_would(tmp_path: Path) -> None:
    made = artefact(tmp_path)
    command = [
        sys.executable,
        "-m",
        "lathe",
        "export",
        str(made),
        "--to",
        "gguf",
        "-o",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "llama.cpp's logits differ from ours by" in done.stdout
    register()
    model, tokenizer = load_model(made), open_tokenizer(made)
    prompt = tokenizer("the library lends books", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        expected = model.generate(prompt, max_new_tokens=NEW, do_sample=False, eos_token_id=None)
    with served(tmp_path / "out" / MODEL_FILE, tmp_path / "server.log") as address:
        assert ask(address, "/tokenize", content="the library lends books", add_special=True)["tokens"] == (
            prompt[0].tolist()
        )
        found = ask(
            address,
            "/completion",
            prompt=prompt[0].tolist(),
            n_predict=NEW,
            temperature=0,
            ignore_eos=False,
            return_tokens=True,
            cache_prompt=False,
        )
        chat = ask(
            address,
            "/v1/chat/completions",
            messages=[{"role": "user", "content": "books"}],
            max_tokens=4,
            temperature=0,
        )
    written = expected[0, prompt.shape[1] :].tolist()
    assert found["tokens"] == written[: len(found["tokens"])]
    assert found["tokens"]
    assert chat["choices"][0]["message"]["role"] == "assistant"
