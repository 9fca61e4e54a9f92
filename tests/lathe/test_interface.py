"""`import lathe`: fast, typed, and the same as the commands."""

from __future__ import annotations

import ast
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import pytest

import lathe
from lathe.compressor.pipeline.options import CompressOptions
from lathe.serving.options import ServeOptions
from support.compress_command import Tiny, make_tiny


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return make_tiny(tmp_path_factory.mktemp("interface"))


@pytest.fixture(scope="module")
def outcome(tiny: Tiny) -> lathe.Outcome:
    return lathe.compress(
        model=str(tiny.model),
        out=tiny.model.parent / "out",
        keep=0.6,
        export=("checkpoint", "onnx"),
        calibration=str(tiny.text),
        calibration_tokens=2048,
        evaluations=40,
    )


def test_importing_it_imports_nothing_heavy() -> None:
    code = "import json, sys, lathe; print(json.dumps(list(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = json.loads(ran.stdout)
    ours = {name for name in loaded if name.partition(".")[0] == "lathe"}
    assert ours == {"lathe"}
    assert not {"torch", "transformers", "numpy", "onnxruntime", "typer"} & set(loaded)


@pytest.mark.parametrize("name", ["Plan", "open_artefact", "serve", "UserError", "__version__"])
def test_an_artefact_is_read_and_served_without_torch(name: str) -> None:
    code = f"import sys; sys.modules['torch'] = None; import lathe; lathe.{name}"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_is_there_and_is_told_to_type_checkers() -> None:
    tree = ast.parse(inspect.getsource(lathe))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    told = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert {*told, "__version__"} == set(lathe.__all__)
    assert all(hasattr(lathe, name) for name in lathe.__all__)
    assert set(lathe.__all__) <= set(dir(lathe))
    with pytest.raises(AttributeError, match="no attribute 'compres'"):
        lathe.compres  # noqa: B018


def test_the_version_is_the_distributions() -> None:
    assert lathe.__version__ == version("lathe")


@pytest.mark.parametrize(
    ("function", "options"), [(lathe.compress, CompressOptions), (lathe.serve, ServeOptions)]
)
def test_a_function_takes_the_fields_of_its_options(function: Callable[..., Any], options: type) -> None:
    assert list(inspect.signature(function).parameters) == [field.name for field in fields(options)]


def test_compress_makes_what_the_command_makes(tiny: Tiny, outcome: lathe.Outcome) -> None:
    out = tiny.model.parent / "by command"
    ran = tiny.compress(out, "--keep", "60%")
    assert ran.exit_code == 0, ran.output
    by_command = lathe.open_artefact(out)
    mine = lathe.open_artefact(outcome.out)
    assert outcome.status == "done"
    assert mine.plan == by_command.plan
    assert mine.report == outcome.report
    weights = [(place.path / "model.safetensors").read_bytes() for place in (mine, by_command)]
    assert weights[0] == weights[1]


def test_what_is_wrong_is_told_as_by_the_command(tmp_path: Path) -> None:
    with pytest.raises(lathe.UserError, match="no target is given"):
        lathe.compress(model="nowhere", out=tmp_path / "out")
    with pytest.raises(lathe.UserError, match="makes plans and no artefact"):
        lathe.compress(model="nowhere", out=tmp_path / "out", front=True)


SERVE = """
import sys
from pathlib import Path
import lathe
out, key = map(Path, sys.argv[1:])
lathe.serve(out=out, port=0, api_key_file=key, announce=lambda url, model: print(url, model, flush=True))
"""


def test_serve_serves_until_it_is_told_to_stop(outcome: lathe.Outcome, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("secret\n")
    command = [sys.executable, "-c", SERVE, str(outcome.out), str(key)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url, model = server.stdout.readline().split()
        asked = {"model": model, "prompt": "The fox", "max_tokens": 2}
        refused = httpx.post(f"{url}/v1/completions", json=asked)
        headers = {"Authorization": "Bearer secret"}
        answer = httpx.post(f"{url}/v1/completions", json=asked, headers=headers)
        server.terminate()
    assert (refused.status_code, answer.status_code, server.returncode) == (401, 200, 0)
    with pytest.raises(lathe.UserError, match="both an API key and a file"):
        lathe.serve(out=outcome.out, api_key="another", api_key_file=key)


def test_an_artefact_is_opened(outcome: lathe.Outcome) -> None:
    artefact = lathe.open_artefact(str(outcome.out))
    assert artefact.graph == outcome.out / "onnx/model.onnx"
    assert artefact.files["plan.json"] == (outcome.out / "plan.json").stat().st_size
    assert artefact.bytes == sum(
        file.stat().st_size
        for file in outcome.out.rglob("*")
        if file.is_file() and file.name != "manifest.json"
    )
    artefact.verify()


def test_what_is_no_artefact_is_told(outcome: lathe.Outcome, tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(lathe.UserError, match="is not a directory"):
        lathe.open_artefact(tmp_path / "absent")
    with pytest.raises(lathe.UserError, match=r"manifest\.json"):
        lathe.open_artefact(tiny.model)


def test_a_changed_file_is_found(outcome: lathe.Outcome, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    for name in lathe.open_artefact(outcome.out).files:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        os.link(outcome.out / name, copy / name)
    (copy / "manifest.json").write_bytes((outcome.out / "manifest.json").read_bytes())
    changed = copy / "onnx/model.onnx.data"
    content = bytearray(changed.read_bytes())
    content[-1] ^= 1
    changed.unlink()
    changed.write_bytes(content)
    with pytest.raises(lathe.UserError, match=r"model\.onnx\.data has not the hash"):
        lathe.open_artefact(copy).verify()
