"""Profiles: what one machine timed is what another searches with, and what it says of itself."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import pytest

from lathe.artefact.errors import UserError
from lathe.artefact.plan import LayerShape, ModelShape, Plan
from lathe.compressor.latency.profile import Profile
from lathe.compressor.latency.roofline import DEVICES, estimate
from lathe.compressor.latency.workload import Workload
from support import steady_clock
from support.compress_command import Tiny, lathe, make_tiny
from support.rounded_space import random_plans, rounded_space
from support.tiny_llama import PLANS
from support.tiny_models import tiny as tiny_family

LLAMA_7B = ModelShape(4096, 32_000, 128, False, 32, LayerShape(32, 32, 11_008))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steady: None) -> None:
    monkeypatch.setenv("LATHE_CACHE", str(tmp_path / "cache"))


OWN_NAMES = {
    "positions": "learned_positions",
    "chosen": "experts_per_token",
    "normalised_shares": "norm_topk_prob",
}
"""The dimensions that a profile's file calls otherwise than `ModelShape` does."""


def made(tiny: Tiny, path: Path, *options: str) -> Profile:
    done = lathe("profile", str(tiny.model), "-o", str(path), *options)
    assert done.exit_code == 0, done.output
    return Profile.load(path)


def shape_of(profile: Profile) -> ModelShape:
    known = {name: value for name, value in profile.shape.items() if name not in OWN_NAMES}
    renamed = {name: profile.shape[key] for key, name in OWN_NAMES.items()}
    return ModelShape(**known | renamed | {"layer": LayerShape(**profile.shape["layer"])})


def test_a_profile_needs_no_weights_and_holds_a_table_for_every_workload(tiny: Tiny, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_bytes((tiny.model / "config.json").read_bytes())
    profile = made(
        Tiny(bare, tiny.text),
        tmp_path / "p.json",
        "--latency-metric",
        "tpot,ttft",
        "--batch-size",
        "1,4",
        "--context",
        "32,64",
    )
    assert [t.workload for t in profile.tables] == [
        Workload(m, b, c) for m in ("tpot", "ttft") for b in (1, 4) for c in (32, 64)
    ]
    shape = shape_of(profile)
    table = profile.table("onnx", shape, Workload("ttft", 4, 64))
    expected = steady_clock.milliseconds(shape.dense_plan, "ttft")
    assert table.predict(shape.dense_plan) == pytest.approx(expected)


def test_a_profile_of_mixed_formats_serves_any_plan_of_them(tiny: Tiny, tmp_path: Path) -> None:
    profile = made(tiny, tmp_path / "p.json", "--context", "32", "--backend", "onnx-mixed")
    shape = shape_of(profile)
    space, table = rounded_space(shape), profile.table("onnx-mixed", shape, Workload("tpot", 1, 32))
    constraint = table.constraint(space, 5.0)
    for plan in random_plans(space, shape.num_layers, 10, head_bits=8):
        assert table.predict(plan) == pytest.approx(steady_clock.milliseconds(plan))
        assert constraint.cost(plan) == pytest.approx(table.predict(plan))


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("llama", ("--hardware", "h200"), "onnx-mixed cannot be estimated"),
        ("mixtral", (), "has experts, which onnx-mixed does not take"),
    ],
)
def test_what_mixed_formats_cannot_be_profiled_of_is_refused(
    tmp_path: Path, family: str, options: tuple[str, ...], message: str
) -> None:
    made = tiny_family(tmp_path, family, "untied", "one file")
    command = ("-o", str(tmp_path / "p.json"), "--context", "32", "--backend", "onnx-mixed", *options)
    done = lathe("profile", str(made.model), *command)
    assert done.exit_code == 1
    assert message in done.stderr


def test_output_tokens_count_for_whole_requests_only(tiny: Tiny, tmp_path: Path) -> None:
    options = ("--latency-metric", "tpot,e2e", "--context", "32", "--output-tokens", "16")
    profile = made(tiny, tmp_path / "p.json", *options)
    shape = shape_of(profile)
    assert profile.table("onnx", shape, Workload("tpot", 1, 32)) == profile.tables[0]
    assert profile.table("onnx", shape, Workload("e2e", 1, 32, 16)) == profile.tables[1]
    with pytest.raises(UserError, match="does not cover e2e at batch size 1, context 32, output tokens 17"):
        profile.table("onnx", shape, Workload("e2e", 1, 32, 17))


def test_between_two_contexts_terms_are_interpolated_and_beyond_them_refused(
    tiny: Tiny, tmp_path: Path
) -> None:
    profile = made(tiny, tmp_path / "p.json", "--context", "32,64")
    shape, low, high = shape_of(profile), *profile.tables
    high.terms["attention"] *= 3
    between = profile.table("onnx", shape, Workload("tpot", 1, 40))
    plan = Plan((shape.layer,))
    assert between.workload.context == 40
    assert between.predict(plan) == pytest.approx(0.75 * low.predict(plan) + 0.25 * high.predict(plan))
    for backend, dense, workload, message in (
        ("onnx", shape, Workload("tpot", 1, 65), "does not cover tpot at batch size 1, context 65"),
        ("onnx", shape, Workload("tpot", 2, 32), "does not cover"),
        ("vllm", shape, Workload("tpot", 1, 32), "of onnx, not of vllm"),
        ("onnx", LLAMA_7B, Workload("tpot", 1, 32), "other dimensions"),
    ):
        with pytest.raises(UserError, match=message):
            profile.table(backend, dense, workload)


def test_a_profile_of_this_machine_is_measured_against(tiny: Tiny, tmp_path: Path) -> None:
    made(tiny, tmp_path / "p.json", "--context", "64")
    options = ("--target-speedup", "1.3x", "--profile", str(tmp_path / "p.json"), "--json")
    done = tiny.compress(tmp_path / "out", *options)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["met"] is True
    assert report["latency"]["measured_ms"] <= report["latency"]["target_ms"] * 1.02
    assert report["latency"]["profile"]["this_machine"] is True


def test_a_profile_of_another_machine_is_searched_with_and_nothing_is_called_measured(
    tiny: Tiny, tmp_path: Path
) -> None:
    path = tmp_path / "p.json"
    made(tiny, path, "--context", "64")
    document = json.loads(path.read_text())
    document["tables"][0]["fingerprint"]["processor"] = "Another 9000"
    document["tables"][0]["terms"] = {k: 10 * v for k, v in document["tables"][0]["terms"].items()}
    path.write_text(json.dumps(document))
    shape = shape_of(Profile.load(path))
    target = 10 * steady_clock.milliseconds(shape.dense_plan) / 1.3
    done = tiny.compress(tmp_path / "out", "--target-latency", f"{target:.3f}ms", "--profile", str(path))
    assert done.exit_code == 0, done.output
    assert "profile: processor Another 9000, here " in done.stderr
    assert "not measured" in done.stdout
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["met"] is report["latency"]["measured_ms"] is None
    kept = steady_clock.milliseconds(Plan(tuple(LayerShape(**row) for row in report["layers"])))
    assert 0.9 * target < 10 * kept <= target
    assert report["latency"]["predicted_ms"] == pytest.approx(10 * kept)


def test_an_estimate_says_so_wherever_it_appears(tiny: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    profile = made(tiny, path, "--context", "64", "--hardware", "h200")
    assert profile.tables[0].estimate == "roofline of h200, bfloat16"
    options = ("--target-speedup", "1.05x", "--profile", str(path))
    card = tiny.compress(tmp_path / "out", *options, "--dry-run")
    assert "estimate" in card.stdout
    done = tiny.compress(tmp_path / "out", *options)
    assert done.exit_code == 0, done.output
    assert "an estimate, roofline of h200" in done.stderr
    assert "estimated tpot" in done.stdout
    assert "estimated, not measured" in done.stdout


@pytest.mark.skipif(bool(find_spec("vllm")), reason="vLLM is here")
def test_an_estimate_of_an_engine_that_is_not_here_is_searched_with(tmp_path: Path) -> None:
    tiny, path = make_tiny(tmp_path, head_dim=32), tmp_path / "p.json"
    made(tiny, path, "--context", "64", "--hardware", "h200", "--backend", "vllm")
    options = ("--target-speedup", "1.05x", "--profile", str(path), "--backend", "vllm")
    done = tiny.compress(tmp_path / "out", *options, "--export", "checkpoint,vllm")
    assert done.exit_code == 0, done.output
    assert "estimated, not measured" in done.stdout


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"format": "lathe-profile/1"}', '{"format": "other"}'])
def test_what_is_no_profile_is_one_sentence(tiny: Tiny, tmp_path: Path, content: str) -> None:
    path = tmp_path / "p.json"
    path.write_text(content)
    done = tiny.compress(tmp_path / "out", "--target-speedup", "1.2x", "--profile", str(path))
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: {path} is not a profile")


def test_bad_grids_are_refused_before_anything_is_timed(tiny: Tiny, tmp_path: Path) -> None:
    taken = tmp_path / "taken.json"
    taken.write_text("precious")
    for options, message in (
        (("-o", str(tmp_path / "p.json"), "--context", "many"), "--context many is not a list"),
        (("-o", str(tmp_path / "p.json"), "--context", "100000"), "does not fit the model's"),
        (("-o", str(tmp_path / "p.json"), "--latency-metric", "speed"), "no latency metric `speed`"),
        (
            ("-o", str(tmp_path / "p.json"), "--context", "64", "--hardware", "abacus"),
            "no datasheet for `abacus`",
        ),
        (
            (
                "-o",
                str(tmp_path / "none" / "p.json"),
            ),
            "is not a writable directory",
        ),
        (
            (
                "-o",
                str(taken),
            ),
            "exists",
        ),
    ):
        done = lathe("profile", str(tiny.model), *options)
        assert done.exit_code == 1
        assert message in done.stderr
    assert taken.read_text() == "precious"


@pytest.mark.parametrize("hardware", DEVICES)
def test_an_estimate_is_no_faster_than_moving_the_bytes(hardware: str) -> None:
    shape, device = LLAMA_7B, DEVICES[hardware]
    decode = estimate(shape, Workload("tpot", 1, 512), hardware, "bfloat16")
    weights = shape.weight_bytes(shape.dense_plan, 2) - shape.vocab_size * shape.hidden_size * 2
    cache = 512 * shape.kv_bytes_per_token(shape.dense_plan, 2)
    bound = (weights + cache) / device.bandwidth / 1e6
    assert bound < decode.predict(shape.dense_plan) < 1.5 * bound
    prefill = estimate(shape, Workload("ttft", 1, 4096), hardware, "bfloat16")
    arithmetic = 2 * 4096 * shape.decoder_parameters(shape.dense_plan) / device.tflops / 1e9
    assert arithmetic < prefill.predict(shape.dense_plan) < 2.5 * arithmetic
    assert asdict(decode)["estimate"]


def test_a_narrower_plan_is_estimated_faster() -> None:
    table = estimate(ModelShape(64, 120, 16, False, 4, LayerShape(8, 4, 96)), Workload(), "l4", "float16")
    assert table.predict(PLANS["mixed"]) < table.predict(PLANS["ffn"]) < table.predict(PLANS["dense"])


def test_experts_are_not_estimated() -> None:
    shape = ModelShape(64, 120, 16, False, 4, LayerShape(8, 4, 96), experts=4)
    with pytest.raises(UserError, match="mixtures of experts cannot be estimated"):
        estimate(shape, Workload(), "l4", "float16")
