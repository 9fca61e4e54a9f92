"""The command as a user starts it, in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import typer
from typer.testing import CliRunner

from lathe.artefact.errors import UserError
from lathe.compressor.export.dense import dense_artefact
from lathe.serving.cli.serve import serve
from support.tiny_server import save_checkpoint

COMMAND = (
    "import typer; from lathe.serving.cli.serve import serve; a = typer.Typer(); a.command()(serve); a()"
)

KEYS = ("open sesame", "open")

app = typer.Typer()
app.command()(serve)


@contextmanager
def serving(
    artefact_dir: Path, *options: str, stderr: Any = None
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-c", COMMAND, str(artefact_dir), "--port", "0", "--threads", "1", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline()
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()


def test_ready_means_that_it_answers_and_sigterm_lets_it_finish(artefact_dir: Path):
    with serving(artefact_dir, "--json", "--served-model-name", "mine", "--max-batch", "2") as (
        process,
        line,
    ):
        event = json.loads(line)
        assert (event["event"], event["model"]) == ("ready", "mine")
        assert httpx.get(f"{event['url']}/health/ready").status_code == 200
        body = {"model": "mine", "prompt": "x", "max_tokens": 490, "ignore_eos": True, "stream": True}
        with httpx.stream("POST", f"{event['url']}/v1/completions", json=body, timeout=30) as response:
            lines = response.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert process.wait(20) == 0


def test_a_model_of_several_names_answers_to_each_and_reports_the_first(artefact_dir: Path):
    names = ("--served-model-name", "mine", "--served-model-name", "gpt-4o/x")
    with serving(artefact_dir, "--json", *names) as (process, line):
        event = json.loads(line)
        assert event["model"] == "mine"
        with httpx.Client(base_url=event["url"], timeout=30) as http:
            assert [card["id"] for card in http.get("/v1/models").json()["data"]] == ["mine", "gpt-4o/x"]
            assert http.get("/v1/models/gpt-4o/x").json()["id"] == "gpt-4o/x"
            assert http.get("/v1/models/tiny").status_code == 404
            body = {"prompt": "x", "max_tokens": 1}
            answer = http.post("/v1/completions", json={"model": "gpt-4o/x"} | body)
            assert (answer.status_code, answer.json()["model"]) == (200, "mine")
            metrics = http.get("/metrics").text
            assert 'lathe_generation_tokens_total{model="mine"} 1.0' in metrics
            assert "gpt-4o/x" not in metrics
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


def test_one_line_names_the_url_and_sigint_ends_it(artefact_dir: Path):
    with serving(artefact_dir) as (process, line):
        assert line.startswith("ready: ")
        listening = [
            c.laddr.port for c in psutil.Process(process.pid).net_connections() if c.status == "LISTEN"
        ]
        assert len(listening) == 1
        assert f":{listening[0]}/v1" in line
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["/nowhere"], "not a directory"),
        (["OUT", "--max-length", "513"], "512 positions"),
        (["OUT", "--engine", "abacus"], "onnx"),
        (["OUT", "--host", "256.0.0.1"], "cannot listen"),
        (["OUT", "--allowed-origins", "https://chat.example.com/"], "is not an origin"),
        (["OUT", "--allowed-origins", "chat.example.com"], "is not an origin"),
        (["OUT", "--default-chat-template-kwargs", "{"], "is not valid JSON"),
        (["OUT", "--default-chat-template-kwargs", '{"a": []}'], "a is not a plain value"),
        (["OUT", "--default-chat-template-kwargs", '{"enable_thinking": false}'], "reads no"),
    ],
)
def test_what_the_user_can_mend_is_one_sentence(artefact_dir: Path, options: list[str], words: str):
    arguments = [str(artefact_dir) if option == "OUT" else option for option in options]
    result = CliRunner().invoke(app, [*arguments, *([] if "--port" in options else ["--port", "0"])])
    assert isinstance(result.exception, UserError)
    assert words in str(result.exception)


def test_c11_the_recommended_sampling_is_the_default_and_told(tmp_path: Path):
    """Off by an option; top_k 1 makes all answers those of temperature 0."""
    checkpoint = save_checkpoint(tmp_path / "tiny")
    file = checkpoint / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"temperature": 0.6, "top_k": 1}))
    artefact = dense_artefact(str(checkpoint), tmp_path / "cache")
    answers: dict[str, set[str]] = {}
    for source in ("auto", "none"):
        log = tmp_path / f"{source}.log"
        with (
            log.open("w") as stream,
            serving(artefact, "--json", "--generation-config", source, stderr=stream) as (
                _,
                line,
            ),
        ):
            url = f"{json.loads(line)['url']}/v1/completions"
            body = {"model": artefact.name, "prompt": "The quick", "n": 4}
            choices = httpx.post(url, json=body, timeout=30).json()["choices"]
            answers[source] = {choice["text"] for choice in choices}
        assert ("temperature 0.6, top_k 1" in log.read_text()) == (source == "auto")
    assert (len(answers["auto"]), len(answers["none"])) == (1, 4)


def test_the_key_comes_from_a_mounted_secret(artefact_dir: Path, tmp_path: Path):
    file = tmp_path / "key"
    file.write_text("open sesame\n")
    with serving(artefact_dir, "--json", "--api-key-file", str(file)) as (_, line):
        url = f"{json.loads(line)['url']}/v1/models"
        codes = [httpx.get(url, headers={"authorization": f"Bearer {key}"}).status_code for key in KEYS]
    assert codes == [200, 401]


@pytest.mark.parametrize(
    ("text", "extra", "words"),
    [(" \n", [], "holds no API key"), (None, [], "cannot read"), ("k", ["--api-key", "k"], "both")],
)
def test_a_key_file_without_a_key(tmp_path: Path, text: str | None, extra: list[str], words: str):
    """It is refused; a server without a key would be open to all."""
    file = tmp_path / "key"
    if text is not None:
        file.write_text(text)
    result = CliRunner().invoke(app, ["out", "--api-key-file", str(file), *extra])
    assert isinstance(result.exception, UserError)
    assert words in str(result.exception)


@pytest.mark.parametrize(
    ("variables", "options", "words"),
    [
        ({}, ["--api-key", ""], "the API key is empty"),
        ({"LATHE_API_KEY": ""}, [], "the API key is empty"),
        ({"LATHE_API_KEY_FILE": ""}, [], "names no file"),
    ],
)
def test_an_empty_key_opens_no_server(
    variables: dict[str, str], options: list[str], words: str, monkeypatch: pytest.MonkeyPatch
):
    """As of a variable that is not set: `--api-key "$KEY"`."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(app, ["out", *options])
    assert isinstance(result.exception, UserError)
    assert words in str(result.exception)


def test_a_busy_port_is_a_user_error(artefact_dir: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = CliRunner().invoke(app, [str(artefact_dir), "--port", str(taken.getsockname()[1])])
    assert isinstance(result.exception, UserError)
    assert "cannot listen" in str(result.exception)


def test_help_imports_no_engine():
    heavy = "{'torch', 'onnxruntime', 'uvicorn'}"
    code = f"import sys, lathe.serving.cli.serve; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": str(Path.cwd())})
