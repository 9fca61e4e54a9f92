"""`--kv-cache int8` of `compress` and `lathe export`: reports, bytes, what is scored and served, refusals."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from lathe.artefact.onnx import minimum_version
from lathe.artefact.onnx.graph_format import GRAPH
from lathe.artefact.onnx.runner import OnnxRunner
from lathe.compressor.latency.table import TERMS
from support import steady_clock
from support.compress_command import Tiny, content, lathe
from support.tiny_server import running

pytestmark = pytest.mark.usefixtures("steady", "own_cache")
INT8 = ("--kv-cache", "int8")
SAME = ("config.json", "plan.json", "model.safetensors", "onnx/model.onnx", "onnx/model.onnx.data")


@pytest.fixture(scope="module")
def artefact(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        steady_clock.hold(patch)
        patch.setenv("LATHE_CACHE", str(tmp_path_factory.mktemp("cache")))
        out = tmp_path_factory.mktemp("run") / "out"
        done = tiny.compress(out, *INT8, "--keep", "80%", "--evaluation", str(tiny.text))
        assert done.exit_code == 0, done.output
    return out


def read(out: Path) -> dict[str, Any]:
    return json.loads((out / "report.json").read_text())


def opened(out: Path, slots: int = 1) -> OnnxRunner:
    return OnnxRunner(out / GRAPH, max_batch=slots, max_length=64, threads=1)


def scales(out: Path) -> dict[str, np.ndarray]:
    graph = onnx.load(out / GRAPH).graph
    return {p.name: onnx.numpy_helper.to_array(p) for p in graph.initializer if p.name.endswith("_scale")}


def test_the_report_has_what_the_graph_takes_and_loses(artefact: Path) -> None:
    report, cache = read(artefact), read(artefact)["kv_cache"]
    assert report["latency"]["backend"] == "onnx-kv8"
    assert report["parity"]["onnx_vs_transformers"] < 2e-4
    assert opened(artefact).kv_bytes_per_token == report["kv_bytes_per_token"]["subnet"]
    config = json.loads((artefact / "config.json").read_text())
    heads = config["num_hidden_layers"] * config["num_key_value_heads"]
    assert report["kv_bytes_per_token"]["dense"] == 2 * heads * config["head_dim"]
    assert cache["type"] == "int8"
    assert cache["loss"]["float32"] == report["loss"]["subnet"]
    assert 0 < abs(cache["loss"]["int8"] - cache["loss"]["float32"]) < 0.01
    assert cache["perplexity"]["subnet"] == pytest.approx(np.exp(cache["loss"]["int8"]))
    shown = " ".join(lathe("inspect", str(artefact)).stdout.split())
    for text in (shown, (artefact / "report.html").read_text()):
        assert "The KV cache is int8, which changes the loss by" in text


def test_the_graph_is_scored_with_its_cache(artefact: Path, tiny: Tiny) -> None:
    losses = {}
    for served in (False, True):
        options = ("--text", str(tiny.text), "--json", *(["--served"] if served else []))
        (row,) = json.loads(lathe("evaluate", str(artefact), *options).stdout)
        losses[served] = row["loss"]
    found = read(artefact)["kv_cache"]["loss"]
    assert losses[False] == pytest.approx(found["float32"], rel=1e-4)
    assert losses[True] == pytest.approx(found["int8"], rel=1e-4)


def test_options_of_the_artefact_repeat_it(artefact: Path, tmp_path: Path) -> None:
    again = lathe("compress", "--config", str(artefact / "options.json"), "-o", str(tmp_path / "again"))
    assert again.exit_code == 0, again.output
    assert content(tmp_path / "again", SAME) == content(artefact, SAME)


def test_a_killed_run_resumes(tiny: Tiny, artefact: Path, tmp_path: Path) -> None:
    """It is killed between the scales and the artefact."""
    options = (*INT8, "--keep", "80%", "--evaluation", str(tiny.text))
    killed = tiny.killed(tmp_path / "out", "replace:18", *options)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert any((tmp_path / "out.run").glob("cache-*.safetensors"))
    assert not any((tmp_path / "out.run").glob("artefact/onnx/model.onnx"))
    done = tiny.compress(tmp_path / "out", *options)
    assert done.exit_code == 0, done.output
    assert content(tmp_path / "out", SAME) == content(artefact, SAME)


def test_the_artefact_is_served_as_the_runner_runs_it(artefact: Path) -> None:
    prompt = [5, 17, 99, 4]
    runner = opened(artefact)
    expected = [int(runner.prefill(0, np.array(prompt), "last")[0].argmax())]
    while len(expected) < 12:
        expected.append(int(runner.decode(np.array([expected[-1]]))[0].argmax()))
    with running(artefact, max_length=64) as server:
        answer = server.complete(prompt, max_tokens=12, temperature=0, ignore_eos=True, logprobs=0)
        per_token = server.counter("lathe_kv_cache_bytes_per_token")
        dense = server.counter("lathe_dense_kv_cache_bytes_per_token")
    shown = server.service.tokenizer.display_bytes
    assert answer["choices"][0]["text"] == b"".join(map(shown, expected)).decode(errors="replace")
    assert per_token == runner.kv_bytes_per_token
    assert dense == read(artefact)["kv_bytes_per_token"]["dense"]


def test_rounded_weights_go_with_it(tiny: Tiny, tmp_path: Path) -> None:
    options = ("--quantize", "int8", *INT8, "--target-speedup", "1.5x", "--json")
    done = tiny.compress(tmp_path / "out", *options)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["latency"]["backend"] == "onnx-int8-kv8"
    assert report["met"] is True
    assert report["kv_cache"] == {"type": "int8"}
    assert report["quantization"]["scheme"] == "int8"
    assert opened(tmp_path / "out").kv_bytes_per_token == report["kv_bytes_per_token"]["subnet"]


def test_a_memory_target_counts_a_byte_for_a_value(tiny: Tiny, tmp_path: Path) -> None:
    kept = {}
    for cache in ("float", "int8"):
        options = ("--target-memory", "600kB", "--batch-size", "32", "--kv-cache", cache, "--json")
        done = tiny.compress(tmp_path / cache, *options)
        assert done.exit_code == 0, done.output
        report = json.loads(done.stdout)
        kept[cache] = report["decoder_parameters_kept"]
        runner = OnnxRunner(tmp_path / cache / GRAPH, max_batch=32, max_length=64, threads=1)
        assert runner.weight_bytes + runner.kv_cache_bytes <= 600e3
    assert kept["int8"] > kept["float"]


def test_a_profile_is_of_one_cache(tiny: Tiny, tmp_path: Path) -> None:
    profile = tmp_path / "p.json"
    options = ("-o", str(profile), "--context", "64", "--backend", "onnx-kv8")
    done = lathe("profile", str(tiny.model), *options)
    assert done.exit_code == 0, done.output
    (table,) = json.loads(profile.read_text())["tables"]
    assert set(table["terms"]) == set(TERMS)
    target = ("--profile", str(profile), "--target-speedup", "1.5x", "--dry-run")
    assert tiny.compress(tmp_path / "out", *INT8, *target).exit_code == 0
    assert "the profile is of onnx-kv8, not of onnx" in tiny.compress(tmp_path / "out", *target).stderr


@pytest.mark.parametrize("quantize", [(), ("--quantize", "int4")], ids=["float32", "int4"])
def test_a_dense_model_and_an_artefact_are_exported_with_it(
    tiny: Tiny, artefact: Path, tmp_path: Path, quantize: tuple[str, ...]
) -> None:
    for model, out in ((tiny.model, tmp_path / "dense"), (artefact, tmp_path / "copy")):
        options = ("--to", "onnx", *INT8, *quantize, "--calibration", str(tiny.text), "-o", str(out))
        done = lathe("export", str(model), *options)
        assert done.exit_code == 0, done.output
        runner = opened(out)
        runner.prefill(0, np.array([5, 17, 99, 4]))
        assert {part.dtype for part in runner.copy_kv(0, 0, 4)[2]} == {np.dtype(np.int8)}
    report = read(tmp_path / "copy")
    assert report["kv_cache"] == {"type": "int8"}
    assert ("quantization" in report) == bool(quantize)
    assert report["kv_bytes_per_token"] == read(artefact)["kv_bytes_per_token"]
    assert report["kv_bytes_per_token"]["subnet"] == runner.kv_bytes_per_token
    assert lathe("inspect", str(tmp_path / "copy")).exit_code == 0
    for name, found in scales(tmp_path / "copy").items():
        assert np.median(found / scales(artefact)[name]) == pytest.approx(1, rel=0.25)


def test_a_copy_without_it_is_of_float32(artefact: Path, tmp_path: Path) -> None:
    done = lathe("export", str(artefact), "--quantize", "int8", "-o", str(tmp_path / "copy"))
    assert done.exit_code == 0, done.output
    report = read(tmp_path / "copy")
    assert "kv_cache" not in report
    assert report["kv_bytes_per_token"]["subnet"] == opened(tmp_path / "copy").kv_bytes_per_token
    assert {k: v // 4 for k, v in report["kv_bytes_per_token"].items()} == read(artefact)[
        "kv_bytes_per_token"
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--kv-cache", "int4"), "--kv-cache int4 is unknown. Choose of float, int8."),
        ((*INT8, "--export", "checkpoint"), "--kv-cache int8 is for the ONNX graph. Add onnx to --export"),
        ((*INT8, "--backend", "torch"), "--kv-cache int8 is for ONNX Runtime, not for --backend torch."),
        (("--kv-cache", "float", "--backend", "onnx-kv8"), "--kv-cache float and --backend onnx-kv8 differ"),
    ],
)
def test_what_compress_refuses(tiny: Tiny, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    refused = tiny.compress(tmp_path / "out", "--keep", "80%", *options)
    assert refused.exit_code == 1
    assert message in refused.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--calibration", "x.txt"), "reads no calibration text. Leave --calibration out"),
        ((*INT8, "--calibration", "no.txt"), "no.txt"),
        ((*INT8, "--to", "vllm"), "--kv-cache int8 does not go with --to vllm"),
        ((*INT8, "--quantize", "w8"), "quantized export `onnx-w8`"),
        (("--kv-cache", "8"), "--kv-cache 8 is unknown"),
    ],
)
def test_what_export_refuses(tiny: Tiny, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    refused = lathe("export", str(tiny.model), "-o", str(tmp_path / "out"), *options)
    assert refused.exit_code == 1
    assert message in refused.stderr
    assert not (tmp_path / "out").exists()


def test_an_old_onnx_runtime_is_refused_by_all(
    tiny: Tiny, artefact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(minimum_version, "INSTALLED", "1.26.2")
    text = ("--calibration", str(tiny.text))
    for refused in (
        tiny.compress(tmp_path / "out", *INT8, "--keep", "80%"),
        lathe("export", str(tiny.model), *INT8, *text, "-o", str(tmp_path / "out")),
        lathe("evaluate", str(artefact), "--served", "--text", str(tiny.text)),
    ):
        assert refused.exit_code == 1
        assert "needs ONNX Runtime 1.27 or newer: 1.26.2" in refused.stderr
