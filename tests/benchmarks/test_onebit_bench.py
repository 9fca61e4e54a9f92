"""The comparison of one-bit weights: the bits of each variant, its rows, and a run that goes on."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from benchmarks.onebit import __main__ as onebit
from benchmarks.onebit.table import table
from benchmarks.onebit.variants import VARIANTS, Text
from benchmarks.quality.setting import Setting
from lathe.compressor.model.block_runner import Weights
from lathe.compressor.model.decoder import LayeredModel
from support.compress_command import Tiny, make_tiny


def changed(dense: Sequence[Weights], layers: Sequence[Weights]) -> float:
    """The share of the matrices' norm that rounding moved."""
    pairs = [(old[name], new[name]) for old, new in zip(dense, layers, strict=True) for name in old]
    moved, whole = (
        torch.stack(parts).norm()
        for parts in ([(a - b).norm() for a, b in pairs], [a.norm() for a, _ in pairs])
    )
    return float(moved / whole)


@torch.no_grad()
def test_bits_are_those_that_are_stored(setting: Setting) -> None:
    model = LayeredModel(setting.source, setting.runner, setting.head, setting.embedding, setting.layers)
    windows = torch.cat([setting.fit, setting.heldout])
    text = Text(windows, torch.arange(len(windows)) >= len(setting.fit))
    made = {name: VARIANTS[name](model, text) for name in ("dense", "nearest-1", "gptq-2-g32", "billm")}
    assert (made["dense"].effective, changed(setting.layers, made["dense"].layers)) == (32, 0)
    matrices = [weight for weight in setting.layers[0].values() if weight.dim() == 2]
    weights = sum(weight.numel() for weight in matrices)
    for name, bits, group in (("nearest-1", 1, 128), ("gptq-2-g32", 2, 32)):
        scales = sum(len(weight) * -(-weight.shape[1] // group) for weight in matrices)
        assert made[name].effective == pytest.approx(bits + 16 * scales / weights)
    assert made["billm"].nominal < 2 < made["billm"].effective
    nearest = changed(setting.layers, made["nearest-1"].layers)
    for layer, found in zip(setting.layers, made["nearest-1"].layers, strict=True):
        for name, weight in layer.items():
            if weight.dim() == 2:
                assert torch.equal(found[name] >= 0, weight >= 0)
                means = found[name].abs().amax(1) - weight.abs().mean(1)
                assert means.abs().max() < 0.01 * weight.abs().mean()
    assert 0.5 < nearest < 0.7


def run(tiny: Tiny, out: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    texts = ["--text", str(tiny.text), "--eval", str(tiny.text), "--tokens", "1024", "--windows", "1"]
    arguments = ["onebit", "--model", str(tiny.model), *texts, "--out", str(out), *options]
    monkeypatch.setattr(sys, "argv", arguments)
    return onebit.main()


def test_the_command_writes_its_rows_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny, out = make_tiny(tmp_path), tmp_path / "bench" / "onebit.json"
    assert run(tiny, out, monkeypatch, "--variants", "dense,nearest-1") == 0
    first = json.loads(out.read_text())["rows"]
    assert run(tiny, out, monkeypatch, "--variants", "dense,nearest-1,billm") == 0
    document = json.loads(out.read_text())
    assert document["rows"][:2] == first
    assert [row["variant"] for row in document["rows"]] == ["dense", "nearest-1", "billm"]
    dense, nearest, billm = document["rows"]
    assert (dense["increase"], dense["kl"], dense["agreement"]) == (0, 0, 1)
    assert 0 < billm["kl"] < nearest["kl"]
    shown = capsys.readouterr().out
    assert table(document["rows"]) in shown
    assert shown.index("| nearest-1 |") < shown.index("| billm |")
    assert run(tiny, out, monkeypatch, "--seed", "1") == 1
    assert run(tiny, tmp_path / "other.json", monkeypatch, "--variants", "abacus") == 1
    assert "Known: dense, nearest-1" in capsys.readouterr().err
