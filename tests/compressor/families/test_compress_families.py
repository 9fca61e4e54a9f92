"""The whole command on one model of every family: calibrate, order, search, reform, export, verify."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from compress_command import Tiny
from tiny_families import CASES, random_model
from tiny_server import save_tokenizer

FIRST = {str(settings["model_type"]): case for case, settings in reversed(CASES.items())}


def tiny(directory: Path, family: str) -> Tiny:
    model, text = directory / "model", directory / "text.txt"
    random_model(FIRST[family], vocab_size=320, bos_token_id=0, eos_token_id=1).save_pretrained(model)
    save_tokenizer(model)
    text.write_text("".join(f"The {i}th fox jumps over {i * 7 % 100} lazy dogs. " for i in range(600)))
    return Tiny(model, text)


@pytest.mark.parametrize("family", FIRST)
@pytest.mark.usefixtures("steady")
def test_every_family_is_compressed(tmp_path: Path, family: str) -> None:
    done = tiny(tmp_path, family).compress(tmp_path / "out", "--keep", "60%")
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["parity"]["onnx_vs_transformers"] < 2e-4
    assert json.loads((tmp_path / "out" / "config.json").read_text())["per_layer_config"]


@pytest.mark.parametrize("family", ["smollm3", "opt"])
@pytest.mark.usefixtures("steady")
def test_the_published_method_runs_where_layers_differ_or_have_no_gate(tmp_path: Path, family: str) -> None:
    done = tiny(tmp_path, family).compress(tmp_path / "out", "--keep", "60%", "--method", "paper")
    assert done.exit_code == 0, done.output
