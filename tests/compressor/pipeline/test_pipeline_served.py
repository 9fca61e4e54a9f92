"""`--for` and `--tensor-parallel`: plans that can be served there, or a refusal before a weight is read."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lathe.artefact.errors import UserError
from lathe.artefact.plan import LayerShape, Plan
from lathe.artefact.vllm.limits import check_parallel
from lathe.compressor.export import exporters
from lathe.compressor.pipeline.options import CompressOptions
from support.compress_command import Tiny, content, lathe, make_tiny

SHARED = {"head_dim": 32, "num_attention_heads": 8, "num_key_value_heads": 8, "intermediate_size": 192}

pytestmark = pytest.mark.usefixtures("steady", "own_cache", "no_gpu")


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A model that two devices can share, with heads of a size that vLLM has."""
    return make_tiny(tmp_path_factory.mktemp("wide"), **SHARED)


@pytest.fixture
def unreadable(tmp_path: Path, wide: Tiny) -> Tiny:
    """The same, refused as soon as a weight is read."""
    made = make_tiny(tmp_path / "unreadable", **SHARED)
    weights = load_file(made.model / "model.safetensors")
    save_file(
        {name: value * float("nan") for name, value in weights.items()}, made.model / "model.safetensors"
    )
    return made


def write_plan(path: Path, *layers: tuple[int, int, int]) -> str:
    path.write_text(json.dumps(Plan(tuple(LayerShape(*layer) for layer in layers)).to_json()))
    return str(path)


def test_a_plan_for_two_devices_is_exported_for_them(wide: Tiny, tmp_path: Path) -> None:
    out, target = tmp_path / "out", ("--keep", "70%", "--export", "checkpoint,vllm", "--json")
    free = wide.compress(tmp_path / "free", *target)
    assert free.exit_code == 0, free.output
    with pytest.raises(UserError, match="2 devices cannot share layer"):
        check_parallel(Plan.load(tmp_path / "free" / "plan.json"), 2)
    done = wide.compress(out, *target, "--tensor-parallel", "2")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["served"] == {
        "by": ["checkpoint", "vllm"],
        "exports": ["checkpoint", "vllm"],
        "tensor_parallel": 2,
    }
    shown = wide.compress(out, *target[:-1], "--tensor-parallel", "2", "--overwrite").output
    assert f"vllm serve {out} --tensor-parallel-size 2`" in shown.replace("\n", "")
    shared = lathe("export", str(out), "--to", "vllm", "--tensor-parallel", "2", "-o", str(tmp_path / "two"))
    assert shared.exit_code == 0, shared.output


@pytest.mark.parametrize("method", ["lathe", "paper"])
def test_every_width_is_one_that_four_bit_kernels_take(wide: Tiny, tmp_path: Path, method: str) -> None:
    options = ("--for", "vllm-w4a16", "--tensor-parallel", "2", "--method", method)
    done = wide.compress(tmp_path / "out", "--keep", "60%", "--export", "checkpoint", *options, "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["served"] == {
        "by": ["checkpoint", "vllm-w4a16"],
        "exports": ["checkpoint"],
        "tensor_parallel": 2,
    }
    for layer in report["layers"]:
        assert layer["ffn"] % 64 == 0
        assert layer["query_heads"] % 2 == 0


def test_a_speed_is_reached_with_what_may_be_used(wide: Tiny, tmp_path: Path) -> None:
    done = wide.compress(tmp_path / "out", "--target-speedup", "1.3x", "--tensor-parallel", "4", "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["met"]
    check_parallel(Plan.load(tmp_path / "out" / "plan.json"), 4)


def test_a_front_is_of_plans_that_can_be_shared(wide: Tiny, tmp_path: Path) -> None:
    done = wide.compress(tmp_path / "front", "--front", "--tensor-parallel", "4")
    assert done.exit_code == 0, done.output
    for file in (tmp_path / "front" / "plans").iterdir():
        check_parallel(Plan.load(file), 4)


REFUSED = [
    (
        ("--tensor-parallel", "3"),
        "3 devices cannot share layer 0 (8 query heads, 8 KV heads, 192 FFN "
        "channels). The dense model can be served with --tensor-parallel 1, 2, 4, 8.",
    ),
    (
        ("--for", "vllm-w4a16", "--tensor-parallel", "4"),
        "in sizes that quantized kernels take. The dense model can be served with --tensor-parallel 1, 2.",
    ),
    (
        ("--for", "vllm-w4a15"),
        "Known: checkpoint, genai, genai-int4, genai-int8, genai-mixed, gguf",
    ),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
@pytest.mark.parametrize("command", ["compress", "plan"])
def test_what_cannot_be_served_is_refused_before_a_weight_is_read(
    unreadable: Tiny, command: str, options: tuple[str, ...], message: str
) -> None:
    before = set(unreadable.model.parent.iterdir())
    output = ("-o", str(unreadable.model.parent / "out")) if command == "compress" else ()
    text = ("--calibration", str(unreadable.text), "--context", "64")
    done = lathe(command, str(unreadable.model), "--keep", "60%", *output, *text, *options)
    assert done.exit_code == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert set(unreadable.model.parent.iterdir()) == before


@pytest.mark.parametrize(
    ("changes", "destination", "message"),
    [
        ({"head_dim": 16}, "vllm", "no CPU attention kernel for heads of size 16. It has them for 32, 48"),
        ({"head_dim": 16}, "vllm-w8a8", "no CPU attention kernel for heads of size 16. It has them for 32"),
        ({"hidden_size": 80, "head_dim": 32}, "vllm-w4a16", "hidden size of 80. They take multiples of 32."),
        ({"intermediate_size": 100, "head_dim": 32}, "vllm-w4a16", "FFN channels in multiples of 32."),
    ],
)
def test_models_that_a_destination_does_not_take(
    tmp_path: Path, changes: dict[str, int], destination: str, message: str
) -> None:
    model = make_tiny(tmp_path, **changes)
    for done in (
        model.compress(tmp_path / "out", "--keep", "60%", "--for", destination),
        lathe("plan", str(model.model), "--no-latency", "--for", destination),
    ):
        assert done.exit_code == 1
        assert message in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_given_plan_keeps_to_the_same_rules(unreadable: Tiny, tmp_path: Path) -> None:
    odd = write_plan(tmp_path / "odd.json", (8, 8, 192), (3, 3, 96))
    done = unreadable.compress(tmp_path / "out", "--plan", odd, "--tensor-parallel", "2")
    assert done.exit_code == 1
    assert f"2 devices cannot share layer 1 (3 query heads, 3 KV heads, 96 FFN channels). {odd} can be" in (
        done.stderr
    )
    assert "--tensor-parallel 1." in done.stderr
    narrow = write_plan(tmp_path / "narrow.json", (8, 8, 192), (8, 8, 40))
    done = unreadable.compress(tmp_path / "out", "--plan", narrow, "--for", "vllm-w4a16")
    assert done.exit_code == 1
    assert "there are no quantized kernels for layer 1" in done.stderr
    assert "FFN channels in multiples of 32." in done.stderr


def test_a_run_goes_on_under_other_rules_as_one_of_its_own(wide: Tiny, tmp_path: Path) -> None:
    target, same = ("--keep", "70%"), ("plan.json", "model.safetensors")
    killed = wide.killed(tmp_path / "out", "rename:1", *target)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    for out in (tmp_path / "out", tmp_path / "fresh"):
        done = wide.compress(out, *target, "--tensor-parallel", "2")
        assert done.exit_code == 0, done.output
    assert content(tmp_path / "out", same) == content(tmp_path / "fresh", same)


@pytest.mark.parametrize(
    ("exports", "backend", "counted"),
    [
        ("checkpoint,onnx", "onnx", 4.0),
        ("checkpoint", "onnx", 4.0),
        ("checkpoint,onnx,vllm", "onnx", 4.0),
        ("checkpoint,vllm", "onnx", 2.0),
        ("checkpoint,onnx-int4", "onnx-int4", 0.625),
    ],
)
def test_a_memory_target_counts_values_as_they_are_served(exports: str, backend: str, counted: float) -> None:
    written = tuple(exports.split(","))
    asked = CompressOptions(
        model="model", out=Path("out"), target_memory=10**6, export=written, engine=backend
    )
    source: Any = SimpleNamespace(dtype=torch.bfloat16, shape=SimpleNamespace(tied_embeddings=True))
    assert exporters.get(asked.served).stored(source).weight == counted
