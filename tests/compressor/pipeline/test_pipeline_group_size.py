"""`--group-size`: from the option to the graph, in both kinds of runs, in a resumed one, and without text."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from lathe.artefact.onnx.graph_format import FOLDER
from lathe.compressor.export.onnx.graph import read_summary
from support.compress_command import Tiny, content, lathe

pytestmark = pytest.mark.usefixtures("steady")
QUICK = ("--keep", "60%", "--quantize", "int4", "--method", "quick")
SAME = ("plan.json", "model.safetensors", "onnx/model.onnx", "onnx/model.onnx.data")


def quantization(out: Path) -> Any:
    return json.loads((out / "report.json").read_text())["quantization"]


def test_a_resumed_run_rounds_again_in_other_groups(tiny: Tiny, tmp_path: Path) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    killed = tiny.killed(out, "replace:11", *QUICK, "--group-size", "32")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    first = {file.name for file in (tmp_path / "out.run").glob("rounded-*.safetensors")}
    assert first
    done = tiny.compress(out, *QUICK, "--group-size", "64")
    assert done.exit_code == 0, done.output
    assert "--group-size was 32 and is 64" in " ".join(done.output.split())
    done = tiny.compress(whole, *QUICK, "--group-size", "64")
    assert done.exit_code == 0, done.output
    assert content(out, SAME) == content(whole, SAME)
    assert set(quantization(out)["groups"]) <= {"64", "32"}
    assert quantization(out)["groups"]["64"] > 0
    assert read_summary(out / FOLDER)["groups"] == quantization(out)["groups"]


def test_a_search_for_bits_measures_and_rounds_in_the_groups(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATHE_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "out"
    options = ("--bits", "auto", "--target-speedup", "2.6x", "--group-size", "32")
    done = tiny.compress(out, *options)
    assert done.exit_code == 0, done.output
    formats = quantization(out)["formats"]
    assert [*formats["int4"]["groups"], *formats.get("int8", {"groups": ["32"]})["groups"]] == ["32", "32"]
    tables = [path.name for path in (tmp_path / "cache" / "latency").glob("*.json")]
    assert tables
    assert all(name.startswith("onnx-mixed-32-") for name in tables)
    trace = [json.loads(line) for line in (out / "trace.jsonl").read_text().splitlines()]
    keys = [row["key"] for row in trace if str(row.get("key", "")).startswith("rounding")]
    assert keys
    assert all(key.endswith(" 32") for key in keys)
    assert json.loads((out / "options.json").read_text())["group-size"] == "32"


def test_export_needs_no_text(tiny: Tiny, tmp_path: Path) -> None:
    groups = {}
    for size in ("adaptive", "32", "256"):
        out = tmp_path / size
        options = ("--quantize", "int4", "--group-size", size, "-o", str(out), "--json")
        done = lathe("export", str(tiny.model), *options)
        assert done.exit_code == 0, done.output
        groups[size] = json.loads(done.stdout)["quantization"]["groups"]
        assert read_summary(out / FOLDER)["groups"] == groups[size]
        (row,) = json.loads(lathe("evaluate", str(out), "--text", str(tiny.text), "--json").stdout)
        assert row["loss"] > 0
    assert set(groups["32"]) == {"32"}
    assert max(map(int, groups["256"])) > 32
    assert sum(groups["adaptive"].values()) == sum(groups["32"].values())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--group-size", "64"), "--group-size 64 is for rounded weights of an ONNX graph"),
        (("--to", "vllm", "--quantize", "w4a16", "--group-size", "64"), "is for rounded weights of an ONNX"),
        (
            ("--quantize", "int4", "--group-size", "48"),
            "--group-size 48 is unknown. Choose of auto, adaptive",
        ),
    ],
)
def test_export_refuses(tiny: Tiny, tmp_path: Path, options: tuple[str, ...], words: str) -> None:
    done = lathe("export", str(tiny.model), *options, "-o", str(tmp_path / "out"))
    assert done.exit_code == 1
    assert words in " ".join(done.stderr.split())
    assert not [*tmp_path.iterdir()]
