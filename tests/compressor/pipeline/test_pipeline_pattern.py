"""`--pattern`: from the option to zeros in the checkpoint and in rounded graphs; a resumed run; refusals."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lathe.artefact.errors import UserError
from lathe.compressor.model.pattern import Pattern
from lathe.compressor.pipeline.checks import checked_pattern
from lathe.compressor.pipeline.options import CompressOptions
from support.compress_command import Tiny, content, make_tiny
from support.graph_matrices import matrices, stored_tensors
from support.tiny_families import family_checkpoint

pytestmark = pytest.mark.usefixtures("steady")
SAME = ("plan.json", "model.safetensors", "onnx/model.onnx", "onnx/model.onnx.data")


def report(out: Path) -> Any:
    return json.loads((out / "report.json").read_text())


def layers_of(out: Path) -> list[dict[str, torch.Tensor]]:
    """The matrices of every layer of a checkpoint, by name relative to it."""
    tensors = load_file(out / "model.safetensors")
    return [
        {
            name.removeprefix(prefix): value
            for name, value in tensors.items()
            if name.startswith(prefix) and value.dim() == 2
        }
        for prefix in (f"model.layers.{index}." for index in range(2))
    ]


def most_kept(matrix: torch.Tensor, group: int = 4) -> int:
    return int((matrix.unflatten(1, (-1, group)) != 0).sum(-1).max())


@pytest.mark.parametrize(("pattern", "method"), [("2:4", None), ("3:8", "sparsegpt")])
def test_every_group_of_the_checkpoint_has_the_pattern(
    tiny: Tiny, tmp_path: Path, pattern: str, method: str | None
) -> None:
    out, options = tmp_path / "out", ("--pattern-method", method) if method else ()
    done = tiny.compress(out, "--pattern", pattern, *options, "--method", "quick")
    assert done.exit_code == 0, done.output
    kept, group = map(int, pattern.split(":"))
    for layer in layers_of(out):
        assert len(layer) == 7
        assert {most_kept(matrix, group) for matrix in layer.values()} == {kept}
    found = report(out)["pattern"]
    assert found["zeros"] == pytest.approx(1 - kept / group)
    assert (found["name"], found["method"]) == (pattern, method or "joint")
    assert json.loads((out / "manifest.json").read_text())["pattern"] == pattern
    shown = " ".join(done.output.split())
    assert f"Weights have the pattern {pattern} ({method or 'joint'})" in shown
    assert "get no faster by them" in shown
    assert "get no faster by them" in (out / "report.html").read_text()


def test_widths_come_first_and_zeros_survive_rounding(tiny: Tiny, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = tiny.compress(out, "--pattern", "2:4", "--keep", "70%", "--quantize", "int8", "--method", "fast")
    assert done.exit_code == 0, done.output
    found = report(out)
    assert found["decoder_parameters_kept"] <= 0.7
    assert found["quantization"]["scheme"] == "int8"
    stored = stored_tensors(out / "onnx" / "model.onnx")
    for index, layer in enumerate(layers_of(out)):
        codes = matrices(stored, f"model.layers.{index}.", layer, 8)
        assert set(codes) == set(layer) != set()
        for name, values in codes.items():
            assert most_kept(values) == 2
            assert not values[layer[name] == 0].any()


@pytest.mark.slow
def test_a_killed_run_goes_on(tiny: Tiny, tmp_path: Path) -> None:
    whole, out, options = tmp_path / "whole", tmp_path / "out", ("--pattern", "2:4", "--method", "quick")
    assert tiny.compress(whole, *options).exit_code == 0
    killed = tiny.killed(out, "replace:11", *options)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [*(tmp_path / "out.run").glob("reformed-*-*-000.safetensors")]
    done = tiny.compress(out, *options)
    assert done.exit_code == 0, done.output
    assert "resuming" in done.output
    assert content(out, SAME) == content(whole, SAME)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--pattern", "2-4"), "--pattern 2-4 is not a pattern. Write N:M, such as 2:4."),
        (("--pattern", "4:4"), "--pattern 4:4 keeps 4 of 4 weights"),
        (("--pattern", "0:4"), "--pattern 0:4 keeps 0 of 4 weights"),
        (("--pattern", "8:16"), "has groups of 16. Give an M of at most 8."),
        (("--pattern", "2:5"), "q_proj in layer 0 of tiny reads 64 values, which groups of 5 do not divide"),
        (
            ("--pattern", "2:4", "--pattern-method", "magic"),
            "there is no pattern method `magic`. Known: joint",
        ),
        (("--keep", "60%", "--pattern-method", "wanda"), "--pattern-method is for --pattern"),
        (("--pattern", "2:4", "--front"), "--front searches widths by what they lose without a pattern"),
        (("--pattern", "2:4", "--max-perplexity-increase", "5%"), "--max-perplexity-increase searches"),
        (("--pattern", "2:4", "--bits", "auto"), "--bits auto and --pattern cannot be combined"),
        (
            ("--pattern", "2:4", "--export", "gguf", "--quantize", "q4_k", "--backend", "llamacpp"),
            "--quantize q4_k and --pattern cannot be combined. Give --quantize int8 or int4",
        ),
    ],
)
def test_refusals_come_before_weights_are_read(
    tiny: Tiny, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    done = tiny.compress(tmp_path / "out", *options)
    assert done.exit_code == 1
    assert words in " ".join(done.stderr.split())
    assert not [*tmp_path.iterdir()]


def test_the_matrix_that_groups_do_not_fill_is_named(tmp_path: Path) -> None:
    odd = make_tiny(tmp_path, intermediate_size=100)
    done = odd.compress(tmp_path / "out", "--pattern", "2:8")
    assert done.exit_code == 1
    assert "down_proj in layer 0 of tiny reads 100 values, which groups of 8" in " ".join(done.stderr.split())


def test_experts_are_refused(tmp_path: Path) -> None:
    source = family_checkpoint(tmp_path / "experts", "mixtral")
    options = CompressOptions(model=str(source.path), out=tmp_path / "out", pattern="2:4")
    with pytest.raises(UserError, match="experts has experts, which --pattern does not take"):
        checked_pattern(options, source)


def test_a_pattern_is_read_and_written() -> None:
    assert str(Pattern.parse(" 2:4 ")) == "2:4"
    assert len(Pattern.parse("2:4").removed) == 6
    assert Pattern.parse("1:4").removed[0] == (0, 1, 2)
