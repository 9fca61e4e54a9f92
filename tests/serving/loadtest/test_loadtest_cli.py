import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from lathe.artefact.errors import UserError
from lathe.serving.cli.loadtest import loadtest
from lathe.serving.loadtest.document import redacted, write_document
from lathe.serving.loadtest.mock import Mock
from support.plugins import install

ServeMock = Callable[[Mock], str]

app = typer.Typer()
app.command()(loadtest)
SMALL = ["--requests", "3", "--warmup", "0", "--output-tokens", "2", "--prompt-tokens", "8"]


def test_json_is_the_only_thing_on_stdout(serve_mock: ServeMock, tmp_path: Path) -> None:
    output = tmp_path / "report.json"
    result = CliRunner().invoke(app, [serve_mock(Mock()), *SMALL, "--json", "-o", str(output)])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found == json.loads(output.read_text())
    assert found["settings"]["concurrency"] == 1
    assert "round 1/1 server: 3 requests" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_the_report_explains_itself(serve_mock: ServeMock) -> None:
    result = CliRunner().invoke(app, [serve_mock(Mock()), *SMALL, "--against", serve_mock(Mock())])
    assert result.exit_code == 0, result.output
    for expected in ("dense", "subnet", "TTFT p95", "TPOT =", "0 of 9", "prompts of 8 tokens"):
        assert expected in result.stdout


def test_failed_requests_are_told_and_end_in_failure(serve_mock: ServeMock) -> None:
    result = CliRunner().invoke(app, [serve_mock(Mock(fault="500", fault_every=2)), *SMALL])
    assert result.exit_code == 1
    assert isinstance(result.exception, UserError)
    assert "1 of 3 requests failed (1 http_500)" in str(result.exception)
    assert "1 of 3" in result.stdout


@pytest.mark.parametrize(
    "wrong",
    [
        ["--rate", "1", "--concurrency", "1"],
        ["--prompts", "absent.txt"],
        ["--prompts", "absent.txt", "--prompt-tokens", "3"],
        ["--rounds", "0"],
        ["--output", "/nowhere/at/all.json"],
        ["--model", "x", "--against", "y"],
        ["--engine", "budgie"],
    ],
)
def test_options_are_refused_before_anything_is_asked_of_a_server(wrong: list[str]) -> None:
    result = CliRunner().invoke(app, ["http://127.0.0.1:9", *wrong])
    assert isinstance(result.exception, UserError)
    assert "No server answers" not in str(result.exception)


def test_a_load_tester_of_another_distribution_is_chosen_by_name(tmp_path: Path) -> None:
    code = "def make(program):\n    raise SystemExit(f'budgie at {program}')\n"
    site = install(tmp_path, "lathe-budgie", code, {"lathe.load_testers": {"budgie": "lathe_budgie:make"}})
    command = [sys.executable, "-m", "lathe", "loadtest", "http://127.0.0.1:9", "--guidellm", "here"]

    def said(engine: str) -> tuple[int, str]:
        environment = os.environ | {"PYTHONPATH": str(site)}
        ran = subprocess.run([*command, "--engine", engine], env=environment, capture_output=True, text=True)
        return ran.returncode, ran.stderr.strip()

    assert said("budgie") == (1, "budgie at here")
    known = "Known: budgie, guidellm, lathe."
    assert said("canary") == (1, f"error: there is no load tester `canary`. {known}")


def test_options_come_from_a_file(serve_mock: ServeMock, tmp_path: Path) -> None:
    file = tmp_path / "load.yaml"
    file.write_text("requests: 3\nwarmup: 0\noutput_tokens: 2\nprompt-tokens: 8\njson: true\nseed: 5\n")
    address = serve_mock(Mock())
    result = CliRunner().invoke(
        app, [address, "--config", str(file), "--requests", "2", "--api-key", "s3cret"]
    )
    assert result.exit_code == 0, result.output
    settings = json.loads(result.stdout)["settings"]
    assert (settings["requests"], settings["output_tokens"], settings["seed"]) == (2, 2, 5)
    assert "s3cret" not in result.stdout
    file.write_text("arrival: sometimes")
    result = CliRunner().invoke(app, [address, "--config", str(file)])
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {file}: arrival is 'sometimes': ")


def test_secrets_stay_out_of_the_document() -> None:
    command = ["lathe", "--api-key", "s3cret", "--api-key=s3cret", "--seed", "1"]
    assert redacted(command) == ["lathe", "--api-key", "***", "--api-key=***", "--seed", "1"]
    handed_on = ["--serve-options", "--api-key s3cret --max-batch 2", "--serve-options=--compare-api-key=s3"]
    assert redacted(handed_on) == [
        "--serve-options",
        "--api-key '***' --max-batch 2",
        "--serve-options='--compare-api-key=***'",
    ]


def test_a_report_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    write_document({"a": 1}, path)
    with pytest.raises(TypeError):
        write_document({"a": object()}, path)
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(UserError, match="cannot be written"):
        write_document({"a": 1}, tmp_path / "absent" / "r.json")


def test_the_load_test_needs_no_torch() -> None:
    modules = "lathe.serving.loadtest.compare, lathe.serving.loadtest.report"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
