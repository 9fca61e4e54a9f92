"""The whole command on one model of every family: calibrate, order, search, reform, export, verify."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.shown import Shows
from support.tiny_families import FIRST
from support.tiny_models import tiny


@pytest.mark.parametrize(
    ("tied", "stored"), [("untied", "one file"), pytest.param("tied", "shards", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("family", FIRST)
@pytest.mark.usefixtures("steady")
def test_every_family_is_compressed(
    tmp_path: Path, family: str, tied: str, stored: str, shows: Shows
) -> None:
    near = shows("compress", f"{family}, {tied}, {stored}")
    done = tiny(tmp_path, family, tied, stored).compress(tmp_path / "out", "--keep", "60%")
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert 0.5 < report["decoder_parameters_kept"] <= 0.6
    assert near(report["parity"]["onnx_vs_transformers"]) < 2e-4
    assert json.loads((tmp_path / "out" / "config.json").read_text())["per_layer_config"]


def test_experts_are_refused_before_any_work_where_they_cannot_be(tmp_path: Path) -> None:
    model = tiny(tmp_path, "mixtral", "untied", "one file")
    for options, sentence in (
        (("--for", "vllm-w4a16"), "experts of a `mixtral` cannot be quantized for vLLM yet"),
        (("--for", "vllm-w8a8"), "experts of a `mixtral` cannot be quantized for vLLM yet"),
        (("--method", "paper"), "not for mixtures of experts"),
    ):
        done = model.compress(tmp_path / "out", "--keep", "60%", *options)
        assert done.exit_code == 1
        assert sentence in done.output
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("family", ["smollm3", "opt"])
@pytest.mark.usefixtures("steady")
def test_the_published_method_runs_where_layers_differ_or_have_no_gate(tmp_path: Path, family: str) -> None:
    model = tiny(tmp_path, family, "untied", "one file")
    done = model.compress(tmp_path / "out", "--keep", "60%", "--method", "paper")
    assert done.exit_code == 0, done.output
