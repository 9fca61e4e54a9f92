"""Options from a file, and the file of options that an artefact keeps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.compress_command import Tiny, content, lathe

pytestmark = pytest.mark.usefixtures("steady")
MADE = ("model.safetensors", "config.json", "plan.json", "options.json", "onnx/model.onnx.data")


def test_an_artefacts_options_make_it_again(tiny: Tiny, tmp_path: Path) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    done = tiny.compress(first, "--keep", "60%", "--quantize", "int8", "--seed", "3")
    assert done.exit_code == 0, done.output
    options = json.loads((first / "options.json").read_text())
    assert options == {
        "model": str(tiny.model),
        "keep": "0.6",
        "latency-metric": "tpot",
        "batch-size": 1,
        "context": 64,
        "backend": "onnx",
        "calibration": str(tiny.text),
        "calibration-tokens": 2048,
        "tensor-parallel": 1,
        "seed": 3,
        "export": "checkpoint,onnx",
        "quantize": "int8",
        "group-size": "auto",
        "method": "auto",
        "evaluations": 40,
        "ffn-levels": 32,
        "tolerance": 0.02,
        "force": False,
        "device": "cpu",
    }
    assert "options.json" in json.loads((first / "manifest.json").read_text())["files"]
    done = lathe("compress", "--config", str(first / "options.json"), "-o", str(again))
    assert done.exit_code == 0, done.output
    assert content(first, MADE) == content(again, MADE)


def test_a_file_of_options_is_checked_like_the_command_line(tiny: Tiny, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(f"model: {tiny.model}\nkeep: 140%\ncalibration: {tiny.text}\n")
    for command in ("compress", "plan"):
        done = lathe(command, "--config", str(file))
        assert done.exit_code == 1
        assert done.stderr.startswith(f"error: {file}: keep: `140%` is not a share")
        assert done.stderr.count("\n") == 1
    file.write_text(f"model: {tiny.model}\nkeep: 70%\ntarget_latncy: 30ms\n")
    done = lathe("compress", "--config", str(file))
    assert (done.exit_code, done.stderr) == (
        1,
        f"error: {file}: there is no option `target_latncy`. The nearest is `target-latency`.\n",
    )
    file.write_text(f"model: {tiny.model}\nkeep: 70%\ncalibration: {tiny.text}\nexport: checkpoint\n")
    done = lathe("compress", "--config", str(file), "-o", str(tmp_path / "out"), "--dry-run", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["calibration"]["asked_tokens"] == 65_536


@pytest.mark.parametrize("name", ["tiny", "tiny/", "."])
def test_the_output_follows_from_the_models_name(
    tiny: Tiny, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny.model if name == "." else tiny.model.parent)
    model = name.replace("tiny", tiny.model.name)
    options = ("--keep", "60%", "--calibration", str(tiny.text), "--export", "checkpoint")
    done = lathe("compress", model, *options, "--dry-run")
    assert done.exit_code == 0, done.output
    (Path.cwd() / f"{tiny.model.name}-lathe").mkdir()
    done = lathe("compress", model, *options)
    assert done.exit_code == 1
    assert f"{tiny.model.name}-lathe exists" in done.stderr
    (Path.cwd() / f"{tiny.model.name}-lathe").rmdir()
