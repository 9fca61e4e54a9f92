"""Several targets in one run: nested subnets in one directory, each a whole artefact."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from transformers import AutoModelForCausalLM

from lathe.artefact.directory import open_artefact
from lathe.artefact.family import Family, read_family
from lathe.artefact.linked_files import bytes_once
from lathe.artefact.modeling import register
from lathe.artefact.onnx.runner import OnnxRunner
from lathe.artefact.plan import Plan
from lathe.serving.launch.engines.onnx import check_external_data
from lathe.serving.served_model import open_served_model
from support import steady_clock
from support.compress_command import Tiny, content, killed_at, lathe, make_tiny

TARGETS = {"1.1x": 1.1, "1.3x": 1.3, "1.6x": 1.6}
OPTIONS = ("--target-speedup", "1.6x,1.1x,1.3x", "--bits", "8")


def compressed(tiny: Tiny, out: Path, *options: str) -> Result:
    return tiny.compress(out, "--evaluations", "1", *options)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A model with two query heads in a KV group."""
    return make_tiny(tmp_path_factory.mktemp("family"))


@pytest.fixture(scope="module")
def made(source: Tiny) -> Family:
    """A family of it in 8 bits."""
    place = source.model.parent
    with pytest.MonkeyPatch.context() as patch:
        steady_clock.hold(patch)
        patch.setenv("LATHE_CACHE", str(place / "cache"))
        done = compressed(source, place / "out", *OPTIONS)
    assert done.exit_code == 0, done.output
    assert "layer by layer" in done.stdout
    return read_family(place / "out")


def plan_of(family: Family, name: str) -> Plan:
    return Plan.load(family.path / "plans" / name / "plan.json")


def test_subnets_are_nested_and_meet_their_targets(made: Family) -> None:
    assert [plan.name for plan in made.plans] == [*TARGETS]
    for wider, narrower in pairwise(TARGETS):
        pairs = zip(plan_of(made, wider), plan_of(made, narrower), strict=True)
        assert all(a.contains(b) for a, b in pairs)
        assert plan_of(made, wider) != plan_of(made, narrower)
    for plan in made.plans:
        artefact = open_artefact(made.directory(plan))
        artefact.verify()
        latency = artefact.report["latency"]
        assert latency["target_speedup"] == TARGETS[plan.name]
        assert plan.measured_ms == latency["measured_ms"] <= latency["target_ms"]
        quantized = artefact.report["quantization"]["loss"]
        assert plan.loss_increase == pytest.approx(quantized["subnet"] - quantized["dense"])


def test_each_subnet_loads_from_its_folder_and_as_a_folder_of_the_family(made: Family) -> None:
    register()
    tokens = torch.arange(40)[None]
    for plan in made.plans:
        alone = AutoModelForCausalLM.from_pretrained(made.directory(plan)).eval()
        folder = AutoModelForCausalLM.from_pretrained(made.path, subfolder=f"plans/{plan.name}").eval()
        with torch.no_grad():
            assert torch.equal(alone(tokens).logits, folder(tokens).logits)


def test_what_subnets_have_in_common_is_stored_once(made: Family) -> None:
    places = [made.directory(plan) for plan in made.plans]
    for name in ("onnx/shared.onnx.data", "tokenizer.json", "trace.jsonl", "model-of-1-2-3.safetensors"):
        assert len({(place / name).stat().st_ino for place in places}) == 1, name
    stated = json.loads((made.path / "family.json").read_text())["bytes"]
    assert bytes_once(places) >= stated["together"] < stated["apart"]
    prompt = np.arange(30)
    for place in places:
        served = open_served_model(place)
        check_external_data(served)
        runner = OnnxRunner(place / "onnx" / "model.onnx", max_batch=1, max_length=32, threads=1)
        graph, model = runner.prefill(0, prompt)[0], AutoModelForCausalLM.from_pretrained(place).eval()
        with torch.no_grad():
            expected = model(torch.tensor(prompt)[None]).logits[0, -1].numpy()
        assert np.abs(graph - expected).mean() < 0.1 * expected.std()
        assert served.weights() == (sum(value.numel() for value in model.parameters()), 0)


def test_an_output_projection_is_taken_over_where_another_one_would_gain_nothing(made: Family) -> None:
    """The first layer is whole in all subnets, so that nothing differs in what it reads and aims at."""
    for number, place in enumerate(made.directory(plan) for plan in made.plans):
        files = json.loads((place / "model.safetensors.index.json").read_text())["weight_map"]
        assert plan_of(made, made.plans[number].name)[0] == plan_of(made, "1.1x")[0]
        assert files["model.layers.0.mlp.down_proj.weight"] == "model-of-1-2-3.safetensors"
        assert files.get("model.layers.1.mlp.down_proj.weight") in (
            f"model-of-{number + 1}.safetensors",
            None,
        )


def test_a_damaged_shared_file_is_named_before_anything_is_served(made: Family, tmp_path: Path) -> None:
    copy = tmp_path / "out"
    shutil.copytree(made.path, copy)
    shared = copy / "plans" / "1.3x" / "onnx" / "shared.onnx.data"
    damaged = bytearray(shared.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    shared.write_bytes(damaged)
    done = lathe("serve", str(copy), "--port", "0")
    assert done.exit_code == 1
    assert done.stderr.count("error:") == 1
    assert str(shared.relative_to(copy)) in done.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("steady", "own_cache")
@pytest.mark.parametrize("point", ["replace:12", "replace:30", "rename:2", "rename:4"])
def test_a_killed_run_goes_on_and_ends_with_the_same_family(
    source: Tiny, made: Family, tmp_path: Path, point: str
) -> None:
    out = tmp_path / "out"
    killed = killed_at(point, source.arguments(out, "--evaluations", "1", *OPTIONS))
    assert killed.returncode == -9, killed.stderr
    assert not out.exists()
    again = compressed(source, out, *OPTIONS)
    assert again.exit_code == 0, again.output
    assert "resuming from" in again.stderr
    weights = (".safetensors", ".data", ".onnx")
    same = [str(file.relative_to(made.path)) for file in made.path.rglob("*") if file.suffix in weights]
    assert len(same) > 9
    assert content(out, same) == content(made.path, same)


def test_inspect_shows_all_subnets(made: Family) -> None:
    shown = lathe("inspect", str(made.path))
    assert shown.exit_code == 0, shown.output
    assert all(plan.name in shown.stdout for plan in made.plans)
    page = (made.path / "family.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert page.count("<svg viewBox") >= 2
    assert all(name in page for name in (*TARGETS, "MiB apart"))
    again = lathe("inspect", str(made.path), "--json")
    assert json.loads(again.stdout) == json.loads((made.path / "family.json").read_text())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--target-speedup", "1.2x,1.20x"], "--target-speedup has a target twice"),
        (["--target-latency", "3ms,2ms", "--target-speedup", "2x"], "exclude each other"),
        (["--target-speedup", "1.2x,2x", "--front"], "--front and several targets"),
        (["--target-speedup", "1.2x,2x", "--max-perplexity-increase", "5%"], "--max-perplexity-increase and"),
        (["--target-speedup", "1.2x,2x", "--bits", "auto"], "--bits auto and several targets"),
        (["--target-speedup", "1.2x,2x", "--quantize", "q4_k"], "--quantize q4_k and several targets"),
        (["--target-speedup", "1.2x,2x", "--pattern", "2:4"], "--pattern and several targets"),
        (["--target-speedup", "1.2x,2x", "--method", "paper"], "--method paper and several targets"),
        (["--target-speedup", "1.2x,2x", "--evaluations", "9"], "--evaluations and several targets"),
        (["--target-speedup", "1x,1.2x"], "the plan 1x is the whole model"),
        (["--target-speedup", "1.2x,900x"], "the plan 900x with a tpot of"),
        (["--target-speedup", "1.2x,fast"], "`fast` is not a speed-up"),
    ],
)
@pytest.mark.usefixtures("steady", "own_cache")
def test_what_makes_no_family_is_refused_and_nothing_is_left(
    tiny: Tiny, tmp_path: Path, options: list[str], message: str
) -> None:
    done = compressed(tiny, tmp_path / "out", *options)
    assert done.exit_code == 1
    assert message in done.stderr
    assert {entry.name for entry in tmp_path.iterdir()} <= {"cache"}


@pytest.mark.parametrize("command", ["plan", "tune"])
def test_other_commands_take_one_target(tiny: Tiny, command: str) -> None:
    done = lathe(command, str(tiny.model), "--target-speedup", "1.2x,2x")
    assert done.exit_code == 1
    assert f"lathe {command} takes one target of latency" in done.stderr
