"""Checkpoints with the values of one-bit weights: what they hold, what is said of them, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lathe.artefact.atomic_files import write_json
from lathe.artefact.plan import Plan
from lathe.compressor.evaluate import quality
from lathe.compressor.evaluate.compare import load_model
from lathe.compressor.export.checkpoint import export_checkpoint
from lathe.compressor.export.refresh import refresh
from support.compress_command import Tiny, lathe, make_tiny
from support.tiny_llama import checkpoint, plan, pruned, tokens

SCHEMES = ("b1", "b1-arb", "b1-hbllm")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return make_tiny(tmp_path_factory.mktemp("one-bit"), dtype="bfloat16")


def export(tiny: Tiny, out: Path, scheme: str, *options: str, model: Path | None = None) -> dict:
    text = ("--calibration", str(tiny.text), "--calibration-tokens", "1024")
    target = ("--to", "checkpoint", "--quantize", scheme, "-o", str(out), "--json")
    done = lathe("export", str(model or tiny.model), *target, *text, *options)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)["quantization"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_dense_model(tiny: Tiny, tmp_path: Path, scheme: str) -> None:
    said = export(tiny, tmp_path / "out", scheme)
    dense = load_file(tiny.model / "model.safetensors")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert found.keys() == dense.keys()
    for name, tensor in dense.items():
        one_bit = tensor.dim() == 2 and "layers" in name
        assert torch.equal(found[name], tensor.to(found[name].dtype)) != one_bit, name
    rows = [found[n].float() for n in found if n.endswith("k_proj.weight")]
    if scheme == "b1":  # of two groups and of twice binarized columns
        assert all(len(row.unique()) <= 8 for matrix in rows for row in matrix)
    assert said["scheme"] == scheme
    assert 1 < said["nominal_bits"] < 2 < said["effective_bits"] < 9
    assert said["weight_bytes"]["before"] == said["weight_bytes"]["after"]
    assert said["weight_bytes"]["after"] == sum(tensor.nbytes for tensor in found.values())
    assert "no engine has a kernel" in said["note"]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["quantization"] == said
    assert "model.safetensors" in manifest["files"]
    assert quality(load_model(str(tmp_path / "out")), tokens(2, 32)).loss < 12


def test_the_same_text_gives_the_same_file_and_it_stays_told_after_a_refresh(
    tiny: Tiny, tmp_path: Path
) -> None:
    said = [export(tiny, tmp_path / name, "b1") for name in ("one", "two")]
    assert said[0] == said[1]
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert files[0] == files[1]
    (tmp_path / "one" / "modeling_lathe_llama.py").write_text("# of an earlier version\n")
    refresh(tmp_path / "one")
    manifest = json.loads((tmp_path / "one" / "manifest.json").read_text())
    assert manifest["quantization"] == said[0]
    assert manifest == json.loads((tmp_path / "two" / "manifest.json").read_text())


def test_a_subnet(tiny: Tiny, tmp_path: Path) -> None:
    subnet = plan((0, 0, 32), (2, 2, 64), (0, 0, 0), (4, 2, 0))
    vocabulary = json.loads((tiny.model / "config.json").read_text())["vocab_size"]
    source = checkpoint(tmp_path / "dense", head_dim=32, vocab_size=vocabulary)
    for file in tiny.model.glob("tokenizer*"):
        (source.path / file.name).write_bytes(file.read_bytes())
    export_checkpoint(tmp_path / "subnet", pruned(source, subnet))
    write_json(tmp_path / "subnet" / "plan.json", subnet.to_json())
    export(tiny, tmp_path / "out", "b1", model=tmp_path / "subnet")
    assert Plan.load(tmp_path / "out" / "plan.json") == subnet
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("subnet", "out"))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        one_bit = tensor.dim() == 2 and "layers" in name
        assert after[name].shape == tensor.shape
        assert torch.equal(after[name], tensor) != one_bit
        assert not one_bit or all(len(row.unique()) <= 8 for row in after[name])
    assert quality(load_model(str(tmp_path / "out")), tokens(2, 32)).loss < 12


def test_it_is_said_that_the_file_is_no_smaller(tiny: Tiny, tmp_path: Path) -> None:
    text = ("--calibration", str(tiny.text), "--calibration-tokens", "1024")
    target = ("--to", "checkpoint", "--quantize", "b1", "-o", str(tmp_path / "out"))
    done = lathe("export", str(tiny.model), *target, *text)
    assert "the file is no smaller; no engine has a kernel for one bit" in done.stdout.replace("\n", " ")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_engine_is_given_one_bit_weights(tiny: Tiny, tmp_path: Path, scheme: str) -> None:
    out = ("-o", str(tmp_path / "out"))
    asked = {
        (
            "compress",
            str(tiny.model),
            "--keep",
            "60%",
            "--quantize",
            scheme,
        ): f"--quantize {scheme} cannot be",
        ("compress", str(tiny.model), "--keep", "60%", "--bits", "1"): "--bits 1 cannot be served",
        (
            "export",
            str(tiny.model),
            "--to",
            "onnx",
            "--quantize",
            scheme,
        ): f"--to onnx --quantize {scheme} can",
        (
            "export",
            str(tiny.model),
            "--to",
            "vllm",
            "--quantize",
            scheme,
        ): f"--to vllm --quantize {scheme} can",
    }
    for command, words in asked.items():
        done = lathe(*command, *out)
        assert done.exit_code == 1
        assert words in done.stderr
        assert "ONNX Runtime, vLLM and PyTorch have no kernel for one-bit weights" in done.stderr
        assert (
            f"`lathe export MODEL --to checkpoint --quantize {'b1' if '--bits' in command else scheme}`"
            in (done.stderr)
        )
    assert not (tmp_path / "out").exists()


def test_other_refusals(tiny: Tiny, tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("Too little.")
    target = ("--to", "checkpoint", "--quantize", "b1")
    refused = {
        (
            *target,
            "--calibration",
            str(short),
            "-o",
            str(tmp_path / "out"),
        ): "at least 1,024 tokens are needed",
        (*target, "-o", str(tmp_path)): "exists",
        (*target,): "there is no --output",
        (*target, "--plan", str(short), "-o", str(tmp_path / "out")): "gives all blocks the same bits",
        ("--to", "onnx", "--quantize", "int8", "--calibration", "self", "-o", str(tmp_path / "out")): (
            "--quantize int8 reads no calibration text"
        ),
        (
            "--calibration-tokens",
            "2048",
            "-o",
            str(tmp_path / "out"),
        ): "an export as it is reads no calibration",
        ("--to", "checkpoint", "--quantize", "b2", "-o", str(tmp_path / "out")): "Known: checkpoint-b1, ",
    }
    for options, words in refused.items():
        done = lathe("export", str(tiny.model), *options)
        assert done.exit_code == 1, options
        assert words in done.stderr
    assert not (tmp_path / "out").exists()
