"""Where `--bits auto` is the default of `compress`, and what a run by default says and makes."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import lathe as product
from lathe.artefact.errors import UserError
from lathe.artefact.plan import BLOCK_KINDS, LayerShape, Plan
from lathe.compressor.pipeline.default_bits import with_default_bits
from lathe.compressor.pipeline.options import CompressOptions
from support.compress_command import Tiny, content, lathe, make_tiny
from support.tiny_models import tiny as tiny_family

pytestmark = pytest.mark.usefixtures("steady", "own_cache")
NOTICE = "weights: float32, 8 or 4 bits by block; --bits 16 keeps float32"
SAME = ("config.json", "plan.json", "model.safetensors", "onnx/model.onnx", "onnx/model.onnx.data")


@pytest.fixture
def usual(tiny: Tiny) -> Tiny:
    """Of which commands say nothing of bits."""
    return replace(tiny, bits=())


def asked(model: Path | str, out: Path, **given: Any) -> CompressOptions:
    return CompressOptions(model=str(model), out=out, **given)


@pytest.mark.parametrize(
    "target",
    [
        {"target_latency_ms": 4.0},
        {"target_speedup": 1.5},
        {"target_throughput": 200.0},
        {"target_memory": 10**6},
        {"target_speedup": 1.5, "target_memory": 10**6},
        {"target_latency_ms": 40.0, "latency_metric": "ttft", "method": "quick"},
        {"target_memory": 10**6, "vocabulary": "text.txt"},
        {"target_speedup": 1.5, "export": ("onnx", "checkpoint")},
        {"target_speedup": 1.5, "engine": "llamacpp", "export": ("gguf",)},
    ],
)
def test_a_target_of_latency_or_memory_is_met_by_widths_and_bits(
    tiny: Tiny, tmp_path: Path, target: dict[str, Any]
) -> None:
    options = asked(tiny.model, tmp_path / "out", **target)
    assert with_default_bits(options) == replace(options, bits="auto")


@pytest.mark.parametrize(
    "given",
    [
        {"target_speedup": 1.5, "bits": "16"},
        {"target_speedup": 1.5, "bits": "8"},
        {"target_speedup": 1.5, "quantize": "int4"},
        {"target_speedup": 1.5, "profile": Path("box.json")},
        {"target_speedup": 1.5, "keep": 0.7},
        {"target_memory": 10**6, "keep": 0.7},
        {"target_speedup": 1.5, "destinations": ("vllm",)},
        {"target_speedup": 1.5, "tensor_parallel": 2},
        {"target_speedup": 1.5, "method": "paper"},
        {"target_speedup": 1.5, "method": "policy-gradient"},
        {"target_speedup": 1.5, "engine": "torch", "export": ("checkpoint",)},
        {"target_speedup": 1.5, "export": ("checkpoint", "onnx", "vllm")},
        {"target_memory": 10**6, "export": ("checkpoint",)},
        {"target_memory": 10**6, "front": True},
        {"target_memory": 10**6, "perplexity_increase": 0.1},
        {"keep": 0.7},
        {"plan": Path("plan.json")},
        {"front": True},
        {"perplexity_increase": 0.1},
    ],
)
def test_what_is_said_otherwise_leaves_the_options_alone(
    tiny: Tiny, tmp_path: Path, given: dict[str, Any]
) -> None:
    options = asked(tiny.model, tmp_path / "out", **given)
    assert with_default_bits(options) is options


def test_models_that_cannot_be_rounded_keep_their_widths_alone(tmp_path: Path) -> None:
    """Without an error, which `--bits auto` gives."""
    uneven = make_tiny(tmp_path, intermediate_size=84)
    assert uneven.compress(tmp_path / "no", "--bits", "auto", "--target-speedup", "1.3x").exit_code == 1
    done = replace(uneven, bits=()).compress(tmp_path / "out", "--target-speedup", "1.3x", "--dry-run")
    assert done.exit_code == 0, done.output
    assert NOTICE not in done.stderr


def test_experts_keep_float32(tmp_path: Path) -> None:
    mixture = tiny_family(tmp_path, "mixtral", "untied", "shards")
    options = ("--target-speedup", "1.05x", "--dry-run")
    assert "has experts" in mixture.compress(tmp_path / "no", "--bits", "auto", *options).stderr
    done = replace(mixture, bits=()).compress(tmp_path / "out", *options)
    assert done.exit_code == 0, done.output
    assert NOTICE not in done.stderr


def test_what_will_not_do_is_refused_as_ever(usual: Tiny, tmp_path: Path) -> None:
    nowhere = asked("nowhere", tmp_path / "out", target_speedup=1.5)
    assert with_default_bits(nowhere) is nowhere
    with pytest.raises(UserError, match="exists, and is not an artefact"):
        with_default_bits(asked("nowhere", tmp_path, target_speedup=1.5))
    for model, message in (("nowhere", "nowhere"), (str(usual.model), "is out of reach")):
        refused = lathe("compress", model, "--target-speedup", "50x", "-o", str(tmp_path / "out"))
        assert refused.exit_code == 1
        assert message in refused.stderr
        assert "Widths alone" not in refused.stderr
    assert not (tmp_path / "out").exists()


def test_a_dry_run_says_so_and_has_the_floor_of_the_fewest_bits(usual: Tiny, tmp_path: Path) -> None:
    options = ("--target-speedup", "2x", "--dry-run", "--json")
    floors = {}
    for name, found in (("usual", usual), ("auto", replace(usual, bits=("--bits", "auto")))):
        floors[name] = json.loads(found.compress(tmp_path / "out", *options).stdout)["latency"]["floor_ms"]
    widths = replace(usual, bits=("--bits", "16"))
    floor = json.loads(widths.compress(tmp_path / "out", *options).stdout)["latency"]["floor_ms"]
    assert floors["usual"] == floors["auto"] < floor
    shown = ("--target-speedup", "2x", "--dry-run")
    assert NOTICE in usual.compress(tmp_path / "out", *shown).stderr
    assert "bits" not in widths.compress(tmp_path / "out", *shown).stderr
    assert not (tmp_path / "out").exists()


def test_a_target_that_is_met_already_writes_nothing(usual: Tiny, tmp_path: Path) -> None:
    done = usual.compress(tmp_path / "out", "--target-memory", "1GiB")
    assert done.exit_code == 0, done.output
    assert "the dense model already meets the target; nothing was written" in done.stdout
    assert not (tmp_path / "out").exists()


def test_rounding_alone_is_told_and_repeated_by_its_options(usual: Tiny, tmp_path: Path) -> None:
    out, again = tmp_path / "out", tmp_path / "again"
    done = usual.compress(out, "--target-speedup", "1.3x")
    assert done.exit_code == 0, done.output
    assert NOTICE in done.stderr
    plan, report = Plan.load(out / "plan.json"), json.loads((out / "report.json").read_text())
    assert {layer.unrounded for layer in plan} == {LayerShape(**report["dense_layer"])}
    assert 8 in {layer.bits(kind) for layer in plan for kind in BLOCK_KINDS}
    assert report["met"] is True
    assert report["served"]["exports"] == ["checkpoint", "onnx-mixed"]
    told, page = "Rounding alone is enough: no layer is narrower than it was.", out / "report.html"
    assert told in done.stdout
    assert told in page.read_text()
    assert f"compress {usual.model} --front" in page.read_text()
    assert "--bits auto" in page.read_text()
    assert "--backend" not in page.read_text()
    assert json.loads((out / "options.json").read_text())["bits"] == "auto"
    done = lathe("compress", "--config", str(out / "options.json"), "-o", str(again))
    assert done.exit_code == 0, done.output
    assert content(again, SAME) == content(out, SAME)


def test_a_killed_run_resumes_with_what_auto_makes(usual: Tiny, tmp_path: Path) -> None:
    target = ("--target-speedup", "2.6x", "--seed", "0")
    killed = usual.killed(tmp_path / "out", "evaluate:16", *target)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    done = usual.compress(tmp_path / "out", *target)
    assert done.exit_code == 0, done.output
    assert f"resuming from {tmp_path / 'out.run'}\n" in done.stderr
    assert "Rounding alone" not in done.stdout
    whole = usual.compress(tmp_path / "whole", "--bits", "auto", *target)
    assert whole.exit_code == 0, whole.output
    assert content(tmp_path / "out", SAME) == content(tmp_path / "whole", SAME)


def test_python_has_the_same_default(tiny: Tiny, tmp_path: Path) -> None:
    outcome = product.compress(
        model=str(tiny.model),
        out=tmp_path / "out",
        target_memory=170_000,
        context=64,
        calibration=str(tiny.text),
        calibration_tokens=2048,
        method="quick",
    )
    assert Plan.load(outcome.out / "plan.json").rounded
    assert outcome.report["served"]["exports"] == ["checkpoint", "onnx-mixed"]
