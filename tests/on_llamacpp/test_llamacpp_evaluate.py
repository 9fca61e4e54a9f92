"""Scoring a GGUF file in llama.cpp, as it is served."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("llama_cpp")

from support.compress_command import lathe


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("The quick brown fox jumps over the lazy dog. " * 60)
    return path


def scored(file: Path, text: Path, *options: str) -> dict[str, float]:
    done = lathe("evaluate", str(file), "--text", str(text), "--window", "300", "--json", *options)
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout)
    return dict(row)


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_a_file_scores_in_llama_cpp_what_its_checkpoint_does(
    files: dict[str, Path], text: Path, kind: str
) -> None:
    plain, served = scored(files[kind], text), scored(files[kind], text, "--served")
    assert served["tokens"] == plain["tokens"]
    assert served["loss"] == pytest.approx(plain["loss"], abs=1e-4 if kind == "F32" else 0.02)


def test_kl_between_engines_is_next_to_nothing(files: dict[str, Path], text: Path) -> None:
    row = scored(files["F32"], text, "--served", "--against", str(files["F32"]))
    assert abs(row["kl"]) < 1e-5
    assert row["agreement"] > 0.99
