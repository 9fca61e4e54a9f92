"""Every command that takes a model takes a GGUF file, and calls it by its name."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as Kind
from transformers import AutoModelForCausalLM

from lathe.artefact.errors import UserError
from lathe.artefact.llamacpp.library import llama_cpp
from lathe.compressor.model.gguf import checkpoint_directory
from lathe.serving.served_model import open_served_checkpoint, open_served_model
from support.compress_command import Tiny, lathe
from support.tiny_gguf import byte_level_tokens, write_gguf

pytestmark = pytest.mark.usefixtures("steady")


@pytest.fixture(scope="module")
def file(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = AutoModelForCausalLM.from_pretrained(tiny.model).float()
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    return write_gguf(path, model, Kind.Q8_0, tokens=byte_level_tokens(tiny.model))


@pytest.fixture(autouse=True)
def cache(file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LATHE_CACHE", str(file.parent / "cache"))
    return file.parent / "cache"


def test_compress(tiny: Tiny, file: Path, tmp_path: Path) -> None:
    done = Tiny(file, tiny.text).compress(tmp_path / "out", "--keep", "60%")
    assert done.exit_code == 0, done.output
    assert "small: llama, 2 layers" in done.stderr
    out = tmp_path / "out"
    assert json.loads((out / "options.json").read_text())["model"] == str(file)
    assert json.loads((out / "config.json").read_text())["model_type"] == "lathe_llama"
    assert (out / "chat_template.jinja").read_text() == (tiny.model / "chat_template.jinja").read_text()


def test_plan_and_dry_run(tiny: Tiny, file: Path, tmp_path: Path) -> None:
    text = ("--calibration", str(tiny.text), "--calibration-tokens", "2048")
    done = lathe("plan", str(file), "--keep", "60%", *text, "--context", "64", "--no-latency")
    assert done.exit_code == 0, done.output
    done = Tiny(file, tiny.text).compress(tmp_path / "out", "--keep", "60%", "--dry-run")
    assert done.exit_code == 0, done.output
    assert not [*tmp_path.iterdir()]


def test_evaluate_calls_it_by_its_file(tiny: Tiny, file: Path) -> None:
    place = str(checkpoint_directory(file))
    options = ("--text", str(tiny.text), "--windows", "4", "--against", str(file), "--json")
    done = lathe("evaluate", str(file), place, *options)
    assert done.exit_code == 0, done.output
    own, same = json.loads(done.stdout)
    assert (own["model"], own["against"]) == (str(file), str(file))
    assert same["model"] == place
    assert own["perplexity"] == same["perplexity"]
    assert own["kl"] == pytest.approx(0, abs=1e-9)


def test_export(file: Path, tmp_path: Path) -> None:
    done = lathe("export", str(file), "--to", "checkpoint", "-o", str(tmp_path / "out"))
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "lathe_llama"


def test_profile(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "profile.json"
    done = lathe("profile", str(file), "--hardware", "h200", "--context", "64", "-o", str(out))
    assert done.exit_code == 0, done.output
    assert json.loads(out.read_text())["tables"]


def test_serve_exports_it_under_its_name(file: Path) -> None:
    artefact = open_served_model(file)
    assert (artefact.name, artefact.vocab_size, artefact.compressed) == ("small", 320, False)
    assert artefact.has_chat_template
    with pytest.raises(UserError, match="lathe export .*small.gguf --to checkpoint"):
        open_served_checkpoint(file)


@pytest.mark.parametrize(
    "command",
    [("compress", "--keep", "60%"), ("plan", "--keep", "60%"), ("evaluate", "--tasks", "x"), ("export",)],
)
def test_a_damaged_file_is_one_sentence(file: Path, tmp_path: Path, command: tuple[str, ...]) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(file.read_bytes()[:100])
    done = lathe(command[0], str(damaged), *command[1:])
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {damaged} announces 21 tensors")
    assert done.stderr.count("\n") == 1


def test_without_llama_cpp_a_file_is_not_scored_as_served(
    tiny: Tiny, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    llama_cpp.cache_clear()
    done = lathe("evaluate", str(file), "--text", str(tiny.text), "--window", "32", "--served")
    assert done.exit_code == 1
    assert "error: llama.cpp is not installed. Install it: pip install 'lathe[llamacpp]'." in done.stderr
