"""What a killed run goes on from: inputs of the same content; else what changed is said."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lathe.compressor.model.file_digest import file_digest
from support.compress_command import Tiny

TARGET = ("--keep", "60%", "--method", "quick", "--export", "checkpoint")

pytestmark = pytest.mark.usefixtures("steady")


@pytest.fixture(scope="module")
def killed(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the model, its text, and a run of them that was killed after the search."""
    place = tmp_path_factory.mktemp("killed")
    own = Tiny(Path(shutil.copytree(tiny.model, place / "model")), Path(shutil.copy(tiny.text, place)))
    done = own.killed(place / "out", "replace:7", *TARGET)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return place


@pytest.fixture
def again(killed: Path, tmp_path: Path) -> Tiny:
    """All of it in another place, every file with another time."""
    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    for file in tmp_path.rglob("*"):
        os.utime(file, (1, 1))
    return Tiny(tmp_path / "model", tmp_path / "text.txt")


def said(tiny: Tiny, *options: str) -> str:
    done = tiny.compress(tiny.text.parent / "out", *(options or TARGET))
    assert done.exit_code == 0, done.output
    (line,) = [line for line in done.stderr.splitlines() if "resum" in line]
    return line.replace(str(tiny.text.parent), "")


def test_c13_files_that_are_not_read_and_times_do_not_count(again: Tiny) -> None:
    (again.model / "README.md").write_text("notes")
    (again.model / "other.safetensors.bak").write_bytes(b"")
    before = (again.text.parent / "out.run").rglob("layer-*")
    kept = {file.name for file in before}
    shown = again.compress(again.text.parent / "out", *TARGET)
    assert shown.exit_code == 0, shown.output
    assert f"resuming from {again.text.parent}/out.run\n" in shown.stderr
    assert kept
    assert "calibrate and rank: layers: 0.0 s" in shown.stderr


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("weights", "cannot resume from /out.run: model.safetensors changed. Starting again"),
        ("config", "cannot resume from /out.run: config.json changed. Starting again"),
        ("text", "cannot resume from /out.run: the calibration text changed. Starting again"),
    ],
)
def test_c13_a_file_that_changed_is_named(again: Tiny, change: str, line: str) -> None:
    if change == "weights":
        weights = load_file(again.model / "model.safetensors")
        weights["model.layers.1.mlp.up_proj.weight"][3, 5] += torch.tensor(1.0)
        save_file(weights, again.model / "model.safetensors", {"format": "pt"})
    elif change == "config":
        config = json.loads((again.model / "config.json").read_text())
        (again.model / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-4}))
    else:
        again.text.write_text("Another text. " + again.text.read_text())
    assert said(again) == line


def test_c13_an_option_that_changed_is_named(again: Tiny) -> None:
    assert said(again, "--keep", "50%", *TARGET[2:]) == (
        "resuming from /out.run, but --keep was 0.6 and is 0.5: what depends on that is done again"
    )


def test_c13_a_seed_that_changed_is_named(again: Tiny) -> None:
    assert said(again, *TARGET, "--seed", "7") == (
        "cannot resume from /out.run: --seed was 0 and is 7. Starting again"
    )


def test_a_long_file_is_told_by_blocks_from_all_over_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lathe.compressor.model.file_digest._WHOLE", 2**18)
    monkeypatch.setattr("lathe.compressor.model.file_digest._BLOCKS", 4)
    file, content = tmp_path / "file", bytearray(2**20)
    file.write_bytes(content)
    seen = {file_digest(file)}
    for place in (5, 2**18 + 7, 2**19, 3 * 2**18):
        changed = content.copy()
        changed[place] = 1
        file.write_bytes(changed)
        seen.add(file_digest(file))
    file.write_bytes(content + b"\0")
    assert len(seen | {file_digest(file)}) == 6
