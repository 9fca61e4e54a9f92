"""`--bits auto`: plans of widths and bits, from every kind of target, and what is made of their artefacts."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lathe.artefact.onnx.graph_format import FOLDER, GRAPH
from lathe.artefact.onnx.runner import OnnxRunner
from lathe.artefact.plan import BLOCK_KINDS, LayerShape, Plan
from lathe.compressor.export.onnx.graph import read_summary
from lathe.compressor.latency.table import ROUNDED_TERMS, TERMS
from lathe.compressor.report.page import write_page
from support import steady_clock
from support.compress_command import Tiny, content, lathe
from support.tiny_server import running

pytestmark = pytest.mark.usefixtures("steady", "own_cache")
BITS = ("--bits", "auto")
SAME = ("config.json", "plan.json", "model.safetensors", "onnx/model.onnx", "onnx/model.onnx.data")


@pytest.fixture(scope="module")
def artefact(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Of a run whose target needs fewer bits and smaller widths."""
    with pytest.MonkeyPatch.context() as patch:
        steady_clock.hold(patch)
        patch.setenv("LATHE_CACHE", str(tmp_path_factory.mktemp("cache")))
        out = tmp_path_factory.mktemp("run") / "out"
        done = tiny.compress(out, *BITS, "--target-speedup", "2.6x", "--evaluation", str(tiny.text))
        assert done.exit_code == 0, done.output
    return out


def read(out: Path) -> dict[str, Any]:
    return json.loads((out / "report.json").read_text())


def plan_of(report: dict[str, Any]) -> Plan:
    layers = tuple(LayerShape(**layer) for layer in report["layers"])
    return Plan(layers, report.get("head_bits", 0))


def bits_of(plan: Plan) -> set[int]:
    return {layer.bits(kind) for layer in plan for kind in BLOCK_KINDS}


def compressed(tiny: Tiny, out: Path, *options: str) -> dict[str, Any]:
    done = tiny.compress(out, *BITS, *options, "--json")
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_target_beyond_rounding_takes_bits_and_widths(artefact: Path) -> None:
    report, plan = read(artefact), Plan.load(artefact / "plan.json")
    assert report["met"] is True
    assert plan_of(report) == plan
    assert plan.rounded
    assert report["decoder_parameters_kept"] < 1
    assert report["latency"]["measured_ms"] == pytest.approx(steady_clock.milliseconds(plan))
    assert report["latency"]["speedup"] >= 2.6 * 0.98
    assert report["served"]["by"] == ["checkpoint", "onnx-mixed"]
    stored = read_summary(artefact / FOLDER)
    assert {name: report["quantization"][name] for name in ("scheme", "formats")} == {
        "scheme": stored["scheme"],
        "formats": stored["formats"],
    }
    dense = report["quantization"]["weight_bytes"]["dense"]
    assert dense == 4 * report["parameters"]["dense"]
    assert dense / 2 > report["quantization"]["weight_bytes"]["after"]
    assert report["front"]["chosen"]["bits_per_weight"] < 32


def test_parts_and_limit_are_in_the_formats_of_the_plan(artefact: Path) -> None:
    latency, plan = read(artefact)["latency"], Plan.load(artefact / "plan.json")
    parts = latency["parts_ms"]["subnet"]
    whole = parts["step"] + parts["head"] + sum(parts["attention"]) + sum(parts["ffn"])
    assert whole == pytest.approx(steady_clock.milliseconds(plan))
    assert latency["pruning_limit"]["speedup"] > latency["speedup"]


def test_the_terminal_and_the_page_tell_widths_and_bits(artefact: Path, tmp_path: Path) -> None:
    report, plan = read(artefact), Plan.load(artefact / "plan.json")
    shown = lathe("inspect", str(artefact)).stdout
    page = (artefact / "report.html").read_text()
    assert "kept widths and bits, layer by layer" in shown
    for layer in plan:
        for width, kind in ((layer.query_heads, "attention"), (layer.ffn, "ffn")):
            bits = layer.bits(kind)
            if bits:
                assert f"{width} x {bits} bit" in shown
                assert f'class="{kind} bits-{bits}"' in page
    head = f"mbedding and head: {'8 bit' if plan.head_bits else 'float32'}"
    assert head in shown
    assert head in page
    size = report["quantization"]["weight_bytes"]
    for text in (f"{size['dense'] / 2**20:.2f}", f"{size['after'] / 2**20:.2f}"):
        assert text in next(line for line in shown.splitlines() if "weights (MiB)" in line)
    perplexity = next(line for line in shown.splitlines() if "│ perplexity" in line)
    assert f"{report['quantization']['perplexity']['subnet']:.2f}" in perplexity
    assert "before quantization, perplexity is" in " ".join(shown.split())
    assert "attention weights" in page
    assert "attention, 4 bit" in page
    assert "bits per weight" in page

    report |= {"layers": [layer.unrounded.to_json() for layer in plan]}
    del report["quantization"], report["front"]
    report.pop("head_bits", None)
    (tmp_path / "report.json").write_text(json.dumps(report))
    write_page(tmp_path, tmp_path / "page.html")
    plain = (tmp_path / "page.html").read_text()
    assert 'class="ffn bits' not in plain
    assert "mbedding and head:" not in plain
    assert "attention weights" not in plain
    assert "x 8 bit" not in lathe("inspect", str(tmp_path)).stdout


def test_the_graph_is_scored_as_it_is_served_when_asked(artefact: Path, tiny: Tiny) -> None:
    report, rows = read(artefact), {}
    for served in (False, True):
        options = ("--text", str(tiny.text), "--json", *(["--served"] if served else []))
        (rows[served],) = json.loads(lathe("evaluate", str(artefact), *options).stdout)
    assert rows[False]["loss"] == pytest.approx(report["loss"]["subnet"], rel=1e-4)
    assert rows[True]["loss"] == pytest.approx(report["quantization"]["loss"]["subnet"], rel=1e-4)
    assert rows[True]["loss"] != rows[False]["loss"]
    refused = lathe("evaluate", str(artefact), "--tasks", "x", "--served")
    assert refused.exit_code == 1
    assert "--served scores on a text" in refused.stderr


def test_copies_in_one_format_have_no_bits_of_their_own(artefact: Path, tmp_path: Path) -> None:
    done = lathe("export", str(artefact), "--to", "onnx", "--quantize", "int8", "-o", str(tmp_path / "int8"))
    assert done.exit_code == 0, done.output
    assert Plan.load(tmp_path / "int8" / "plan.json") == Plan.load(artefact / "plan.json").unrounded
    report = read(tmp_path / "int8")
    assert not plan_of(report).rounded
    assert report["quantization"]["scheme"] == read_summary(tmp_path / "int8" / FOLDER)["scheme"] == "int8"
    assert "x 8 bit" not in lathe("inspect", str(tmp_path / "int8")).stdout


def test_options_of_the_artefact_repeat_it(artefact: Path, tmp_path: Path) -> None:
    again = lathe("compress", "--config", str(artefact / "options.json"), "-o", str(tmp_path / "again"))
    assert again.exit_code == 0, again.output
    assert content(tmp_path / "again", SAME) == content(artefact, SAME)


def test_a_dry_run_has_the_floor_of_the_fewest_bits(tiny: Tiny, tmp_path: Path) -> None:
    found = compressed(tiny, tmp_path / "out", "--target-speedup", "2x", "--dry-run")
    one = LayerShape(2, 1, 0, attention_bits=4)
    smallest = Plan((one, LayerShape(0, 0, 0)), 8)
    assert found["latency"]["floor_ms"] == pytest.approx(steady_clock.milliseconds(smallest))
    assert not (tmp_path / "out").exists()


def planted(tiny: Tiny, path: Path, share: float, **terms: float) -> str:
    """A profile of another machine, on which a block takes `share` of its time when it is rounded."""
    done = lathe("profile", str(tiny.model), "-o", str(path), "--context", "64", "--backend", "onnx-mixed")
    assert done.exit_code == 0, done.output
    document = json.loads(path.read_text())
    (table,) = document["tables"]
    plain = dict(zip(TERMS, steady_clock.TERMS.tolist(), strict=True)) | terms
    rounded = {name: share * plain[name.split("@")[0]] for name in ROUNDED_TERMS}
    table["terms"] = plain | {name: rounded[name] for name in table["terms"] if name in rounded}
    table["fingerprint"] = {"processor": "another"}
    path.write_text(json.dumps(document))
    return str(path)


def test_rounding_alone_is_chosen_where_it_meets_the_target(tiny: Tiny, tmp_path: Path) -> None:
    profile = planted(tiny, tmp_path / "fast.json", 0.4, step=0.0, head=0.0)
    report = compressed(tiny, tmp_path / "out", "--profile", profile, "--target-speedup", "2x")
    assert report["met"] is None
    plan = plan_of(report)
    assert plan.unrounded == plan_of({"layers": [report["dense_layer"]] * 2})
    assert bits_of(plan) <= {0, 8}, "4 bits save no more here"
    assert 8 in bits_of(plan)
    assert report["decoder_parameters_kept"] == 1
    assert report["loss"]["subnet"] == pytest.approx(report["loss"]["dense"], rel=1e-5)
    assert report["latency"]["pruning_limit"] is None, "nothing but blocks takes time"


def test_a_plan_that_loses_nothing_may_be_faster_than_the_target(tiny: Tiny, tmp_path: Path) -> None:
    """Most blocks in 8 bits: nothing would be won by spending what is left."""
    report = compressed(tiny, tmp_path / "out", "--target-speedup", "1.05x")
    (row,) = report["latency"]["rounds"]
    assert row["fitness"] < 0.002
    assert row["measured_ms"] < 0.97 * report["latency"]["target_ms"]
    assert report["decoder_parameters_kept"] == 1
    assert bits_of(plan_of(report)) <= {0, 8}


def test_rounding_that_saves_no_time_is_not_chosen(tiny: Tiny, tmp_path: Path) -> None:
    profile = planted(tiny, tmp_path / "slow.json", 1.3)
    report = compressed(tiny, tmp_path / "out", "--profile", profile, "--target-speedup", "1.5x")
    assert not plan_of(report).rounded
    assert "quantization" not in report
    assert report["decoder_parameters_kept"] < 1
    assert report["parity"]["onnx_vs_transformers"] < 1e-3, "its graph is one of float32"


def test_a_profile_of_one_format_is_refused_before_weights_are_read(tiny: Tiny, tmp_path: Path) -> None:
    done = lathe("profile", str(tiny.model), "-o", str(tmp_path / "p.json"), "--context", "64")
    assert done.exit_code == 0, done.output
    options = (*BITS, "--profile", str(tmp_path / "p.json"), "--target-speedup", "1.5x")
    refused = tiny.compress(tmp_path / "out", *options)
    assert refused.exit_code == 1
    assert "the profile is of onnx, not of onnx-mixed. Make one: lathe profile MODEL" in refused.stderr


def test_every_plan_of_a_front_can_be_made(tiny: Tiny, tmp_path: Path) -> None:
    front = tmp_path / "front"
    points = compressed(tiny, front, "--front")["points"]
    assert [p["predicted_ms"] for p in points] == sorted(p["predicted_ms"] for p in points)
    assert points[-1]["bits_per_weight"] <= 32
    plans = [Plan.load(front / point["plan"]) for point in points]
    assert {bits for plan in plans for bits in bits_of(plan)} == {0, 4, 8}
    shown = tiny.compress(tmp_path / "again", *BITS, "--front").stdout
    assert "bits per" in shown

    file = front / points[len(points) // 2]["plan"]
    report = compressed(tiny, tmp_path / "out", "--plan", str(file))
    assert plan_of(report) == Plan.load(file) == Plan.load(tmp_path / "out" / "plan.json")
    assert report["latency"]["measured_ms"] == pytest.approx(points[len(points) // 2]["predicted_ms"])
    assert report["quantization"]["scheme"] == "mixed"
    refused = tiny.compress(tmp_path / "refused", "--plan", str(file))
    assert refused.exit_code == 1
    assert refused.stderr.startswith(f"error: the plan {file} rounds weights. Give --bits auto")


def test_a_quality_is_kept_by_the_graph(tiny: Tiny, tmp_path: Path) -> None:
    options = ("--max-perplexity-increase", "20%", "--evaluation", str(tiny.text))
    report = compressed(tiny, tmp_path / "out", *options)
    after = report["quantization"]["perplexity"]
    assert after["subnet"] / after["dense"] <= 1.2
    rounds = report["max_perplexity_increase"]["rounds"]
    assert any(
        row["loss_increase"]
        == pytest.approx(report["quantization"]["loss"]["subnet"] - report["loss"]["dense"])
        for row in rounds
    )
    assert plan_of(report).rounded


def test_a_memory_target_is_kept_by_the_graph(tiny: Tiny, tmp_path: Path) -> None:
    report = compressed(tiny, tmp_path / "out", "--target-memory", "170kB")
    tokens = report["latency"]["batch_size"] * report["latency"]["context"]
    cache = tokens * report["kv_bytes_per_token"]["subnet"]
    assert 0.8 * 170e3 < report["quantization"]["weight_bytes"]["after"] + cache <= 170e3
    assert plan_of(report).head_bits == 8, "embedding and head alone would take half of it"


@pytest.mark.parametrize("point", ["evaluate:16", "replace:9"])
def test_a_killed_run_resumes(tiny: Tiny, artefact: Path, tmp_path: Path, point: str) -> None:
    target = (*BITS, "--target-speedup", "2.6x", "--evaluation", str(tiny.text))
    killed = tiny.killed(tmp_path / "out", point, *target)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    done = tiny.compress(tmp_path / "out", *target)
    assert done.exit_code == 0, done.output
    assert content(tmp_path / "out", SAME) == content(artefact, SAME)


def test_the_artefact_is_served(artefact: Path) -> None:
    prompt = [5, 17, 99, 4]
    runner = OnnxRunner(artefact / GRAPH, max_batch=1, max_length=64, threads=1)
    ends = [json.loads((artefact / "config.json").read_text())["eos_token_id"]]

    def best(logits_V: np.ndarray) -> int:
        logits_V[ends] = -np.inf  # an answer that may not end has no end tokens
        return int(logits_V.argmax())

    expected = [best(runner.prefill(0, np.array(prompt), "last")[0])]
    while len(expected) < 12:
        expected.append(best(runner.decode(np.array([expected[-1]]))[0]))
    with running(artefact, max_length=64) as server:
        assert server.service.artefact.compressed
        answer = server.complete(prompt, max_tokens=12, temperature=0, ignore_eos=True, logprobs=0)
    shown = server.service.tokenizer.display_bytes
    assert answer["usage"]["completion_tokens"] == 12
    assert answer["choices"][0]["text"] == b"".join(map(shown, expected)).decode(errors="replace")
