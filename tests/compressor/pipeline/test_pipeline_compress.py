"""`compress` end to end on a tiny model: what it writes, when it writes nothing, what it never harms."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from lathe.artefact.modeling import register
from lathe.artefact.plan import Plan
from lathe.compressor.latency import measure
from lathe.compressor.pipeline import latency_loop
from lathe.compressor.pipeline.options import CompressOptions
from lathe.serving.served_model import open_served_model
from support.compress_command import Tiny, lathe

pytestmark = pytest.mark.usefixtures("steady", "own_cache")


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def names(directory: Path) -> set[str]:
    return {entry.name for entry in directory.iterdir()}


def test_keep_writes_a_whole_artefact_of_the_planned_shapes(tiny: Tiny, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = tiny.compress(out, "--keep", "60%")
    assert done.exit_code == 0, done.output
    assert "kept widths, layer by layer" in done.stdout
    assert names(tmp_path) <= {"out", "cache"}
    assert {
        "config.json",
        "model.safetensors",
        "onnx",
        "plan.json",
        "report.json",
        "options.json",
        "manifest.json",
        "trace.jsonl",
        "tokenizer.json",
        "modeling_lathe_llama.py",
        "configuration_lathe_llama.py",
    } <= names(out)

    report, plan = read(out / "report.json"), Plan.load(out / "plan.json")
    assert {"target_ms", "dense_ms", "predicted_ms", "measured_ms"} <= report["latency"].keys()
    for name in ("perplexity", "weight_bytes", "parameters"):
        assert {"dense", "subnet"} <= report[name].keys()
    assert [{k: row[k] for k in ("query_heads", "kv_heads", "ffn")} for row in report["layers"]] == (
        plan.to_json()["layers"]
    )
    assert report["decoder_parameters_kept"] <= 0.6
    stored = load_file(out / "model.safetensors")
    assert sum(value.numel() for value in stored.values()) == report["parameters"]["subnet"]
    for index, layer in enumerate(plan):
        q, up = (f"model.layers.{index}.{name}.weight" for name in ("self_attn.q_proj", "mlp.up_proj"))
        assert (len(stored[q]) if q in stored else 0) == 16 * layer.query_heads
        assert (len(stored[up]) if up in stored else 0) == layer.ffn

    manifest = read(out / "manifest.json")["files"]
    files = {str(file.relative_to(out)) for file in out.rglob("*") if file.is_file()}
    assert set(manifest) == files - {"manifest.json"}
    for name, entry in manifest.items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == entry["sha256"]
    assert open_served_model(out).context == 512


def test_the_artefact_loads_through_transformers_and_scores_what_the_report_says(
    tiny: Tiny, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = tiny.compress(out, "--keep", "60%", "--evaluation", str(tiny.text), "--json")
    report = json.loads(done.stdout)
    assert report == read(out / "report.json")
    register()
    model = AutoModelForCausalLM.from_pretrained(out).eval()
    assert sum(p.numel() for p in model.parameters()) == report["parameters"]["subnet"]
    with torch.no_grad():
        assert torch.isfinite(model(torch.arange(40)[None]).logits).all()
    text = ("--text", str(tiny.text), "--windows", "64")
    scored = lathe("evaluate", str(tiny.model), str(out), *text, "--json")
    dense, subnet = (row["perplexity"] for row in json.loads(scored.stdout))
    assert report["perplexity"]["dense"] == pytest.approx(dense, rel=1e-4)
    assert report["perplexity"]["subnet"] == pytest.approx(subnet, rel=1e-4)
    again = lathe("inspect", str(out), "--json")
    assert json.loads(again.stdout) == report


def test_a_checkpoint_alone_is_not_timed(tiny: Tiny, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = tiny.compress(out, "--keep", "60%", "--export", "checkpoint")
    assert done.exit_code == 0, done.output
    assert not (out / "onnx").exists()
    report = read(out / "report.json")
    assert report["latency"]["measured_ms"] is None
    assert report["parity"]["onnx_vs_transformers"] is None
    assert report["perplexity"]["subnet"] > 1
    assert lathe("inspect", str(out)).exit_code == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--target-speedup", "1.2x", "--export", "checkpoint"], "Add onnx to --export"),
        (["--keep", "60%", "--export", "checkpoint,onyx"], "there is no exporter `onyx`"),
    ],
)
def test_exports_that_cannot_be(tiny: Tiny, tmp_path: Path, options: list[str], message: str) -> None:
    done = tiny.compress(tmp_path / "out", *options)
    assert done.exit_code == 1
    assert message in done.output
    assert not names(tmp_path)


def test_a_checkpoint_is_written_in_any_case() -> None:
    for export in (("onnx",), ("checkpoint", "onnx"), ("onnx", "checkpoint")):
        assert CompressOptions(model="m", out=Path("out"), keep=0.6, export=export).exports == (
            "checkpoint",
            "onnx",
        )


@pytest.mark.parametrize("method", ["lathe", "paper"])
def test_a_latency_target_is_met_as_measured(tiny: Tiny, tmp_path: Path, method: str) -> None:
    done = tiny.compress(tmp_path / "out", "--target-speedup", "1.3x", "--method", method, "--json")
    assert done.exit_code == 0, done.output
    latency = json.loads(done.stdout)["latency"]
    assert latency["measured_ms"] <= latency["target_ms"] * 1.02
    assert latency["measured_ms"] == pytest.approx(latency["predicted_ms"])
    assert latency["dense_ms"] == pytest.approx(1.3 * latency["target_ms"])


def test_an_artefact_slower_than_its_plan_is_searched_again(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = measure.LatencyBenchmark.compare_built

    def slower(self: measure.LatencyBenchmark, dense: Path, subnet: Path, *args: Any, **options: Any) -> Any:
        found = built(self, dense, subnet, *args, **options)
        slow = 1.15 if subnet.name == "onnx" else 1.0
        found.subnet.repeats[:] = [slow * ms for ms in found.subnet.repeats]
        return found

    monkeypatch.setattr(measure.LatencyBenchmark, "compare_built", slower)
    done = tiny.compress(tmp_path / "out", "--target-latency", "4.5ms", "--json")
    assert done.exit_code == 0, done.output
    latency = json.loads(done.stdout)["latency"]
    assert len(latency["rounds"]) == 2
    assert latency["measured_ms"] <= 4.5 * 1.02


def test_the_report_is_about_the_plan_that_was_written(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([4.0, 5.2, 5.2, 5.2, 5.2])
    monkeypatch.setattr(
        latency_loop,
        "cached_comparison",
        lambda *_: {"subnet_ms": next(answers), "ratio": 1.0, "dense_ms": 6.0},
    )
    done = tiny.compress(tmp_path / "out", "--target-latency", "4.5ms", "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert len(report["latency"]["rounds"]) == 4
    assert report["layers"] == read(tmp_path / "out" / "plan.json")["layers"]
    assert report["latency"]["measured_ms"] <= 4.5


def test_a_target_that_dense_meets_writes_nothing_unless_forced(tiny: Tiny, tmp_path: Path) -> None:
    for target in (("--target-latency", "1s"), ("--keep", "100%"), ("--target-memory", "1GiB")):
        done = tiny.compress(tmp_path / "out", *target)
        assert done.exit_code == 0
        assert "already meets" in done.stdout
        assert names(tmp_path) <= {"cache"}
    assert json.loads(tiny.compress(tmp_path / "out", *target, "--json").stdout)["status"] == "already-met"
    forced = tiny.compress(tmp_path / "out", "--keep", "100%", "--force", "--json")
    assert forced.exit_code == 0, forced.output
    assert json.loads(forced.stdout)["decoder_parameters_kept"] == 1
    dense, kept = (load_file(at / "model.safetensors") for at in (tiny.model, tmp_path / "out"))
    assert all(torch.equal(kept[name], tensor) for name, tensor in dense.items() if name in kept)


def test_an_output_that_exists_stays_until_its_replacement_is_whole(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert tiny.compress(out, "--keep", "60%").exit_code == 0
    before = (out / "manifest.json").read_bytes()
    refused = tiny.compress(out, "--keep", "50%")
    assert refused.exit_code == 1
    assert refused.stderr.startswith(f"error: {out} exists. Choose another --output")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as broken:
        broken.setattr(sys.modules["lathe.compressor.pipeline.compress"].Verifier, "__call__", full)
        assert tiny.compress(out, "--keep", "50%", "--overwrite").exit_code == 1
    assert (out / "manifest.json").read_bytes() == before
    assert tiny.compress(out, "--keep", "50%", "--overwrite").exit_code == 0
    assert (out / "manifest.json").read_bytes() != before
    assert names(tmp_path) <= {"out", "cache"}


def test_overwrite_spares_what_compress_did_not_write(tiny: Tiny, tmp_path: Path) -> None:
    precious = tmp_path / "thesis"
    precious.mkdir()
    (precious / "chapter.txt").write_text("years of work")
    for out in (precious, tiny.model):
        before = names(out)
        done = tiny.compress(out, "--keep", "60%", "--overwrite")
        assert done.exit_code == 1
        assert "is not an artefact" in done.stderr
        assert names(out) == before
    (tmp_path / "out.run").mkdir()
    (tmp_path / "out.run" / "diary.txt").write_text("dear diary")
    done = tiny.compress(tmp_path / "out", "--keep", "60%")
    assert done.exit_code == 1
    assert "out.run is needed to work in, and holds something else" in done.stderr
    assert names(tmp_path / "out.run") == {"diary.txt"}


def test_a_dry_run_writes_nothing(tiny: Tiny, tmp_path: Path) -> None:
    done = tiny.compress(tmp_path / "out", "--keep", "60%", "--target-speedup", "1.2x", "--dry-run", "--json")
    preflight = json.loads(done.stdout)
    assert preflight["status"] == "feasible"
    assert (
        preflight["targets"][0]["floor"] < preflight["targets"][0]["limit"] < preflight["targets"][0]["dense"]
    )
    assert (
        preflight["latency"]["floor_ms"]
        < preflight["latency"]["target_ms"]
        < preflight["latency"]["dense_ms"]
    )
    assert names(tmp_path) <= {"cache"}


def test_a_quantized_artefact_is_measured_as_it_is_served(tiny: Tiny, tmp_path: Path) -> None:
    """A target on int4: the artefact's quantized graph is timed and scored, the checkpoint is as without."""
    out = tmp_path / "out"
    text = str(tiny.text)
    options = ("--target-speedup", "1.2x", "--tolerance", "1", "--quantize", "int4", "--evaluation", text)
    done = tiny.compress(out, *options)
    assert done.exit_code == 0, done.output
    assert "before quantization, perplexity is" in " ".join(done.stdout.split())
    report = read(out / "report.json")
    assert report["served"]["by"] == ["checkpoint", "onnx-int4"]
    assert report["latency"]["measured_ms"] > 0
    assert report["parity"]["onnx_vs_transformers"] is None
    quantization = report["quantization"]
    assert quantization["scheme"] == "int4"
    assert quantization["loss"]["subnet"] == pytest.approx(report["loss"]["subnet"], abs=0.2)
    assert quantization["loss"]["subnet"] != report["loss"]["subnet"]
    (row,) = json.loads(lathe("evaluate", str(out), "--text", str(tiny.text), "--json").stdout)
    assert row["loss"] == pytest.approx(report["loss"]["subnet"], rel=1e-4)
    served = shutil.copytree(out, tmp_path / "graph", ignore=shutil.ignore_patterns("model.safetensors"))
    (row,) = json.loads(lathe("evaluate", str(served), "--text", str(tiny.text), "--json").stdout)
    assert row["loss"] == pytest.approx(quantization["loss"]["subnet"], rel=1e-4)
    assert all(layer.ffn % 32 == 0 and layer.query_heads % 2 == 0 for layer in Plan.load(out / "plan.json"))
