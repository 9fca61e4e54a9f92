"""FineQuant's table: bits with scales, what is interpolated, and the whole command on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.groups import __main__ as bench
from benchmarks.groups.choices import adaptive, effective_bits, fixed
from benchmarks.groups.rounded import RoundedLayers, input_grams
from benchmarks.groups.verdict import at_equal_bits, table
from benchmarks.quality.setting import Setting
from lathe.compressor.model.rounding import quantize_in_groups
from support.compress_command import Tiny, make_tiny

LAYERS = [{"a": torch.ones(4, 64), "norm": torch.ones(64)}, {"b": torch.ones(2, 48)}]


@pytest.mark.parametrize(
    ("size", "stored"), [(None, 4 * 16 + 2 * 16), (32, 4 * 32 + 2 * 32), (16, 4 * 64 + 2 * 48)]
)
def test_scales_count_sixteen_bits(size: int | None, stored: int) -> None:
    weights = 4 * 64 + 2 * 48
    found = fixed(LAYERS, size)
    assert effective_bits(LAYERS, found, 4) == pytest.approx(4 + stored / weights)


def test_each_matrix_has_its_group() -> None:
    outliers = torch.full((4, 64), 0.01)
    outliers[:, 40] = 1.0
    layers = [{"flat": torch.ones(4, 64), "outliers": outliers, "norm": torch.ones(64)}]
    choice = adaptive(layers, 0.9)
    assert choice.groups == ({"flat": 64, "outliers": 16},)
    assert choice.counts() == {"64": 1, "16": 1}
    assert choice.name == "adaptive, alpha 0.9"
    rounded = RoundedLayers(layers, 4)(choice)[0]
    assert rounded["outliers"].equal(quantize_in_groups(outliers, 4, 16).values)
    assert rounded["norm"] is layers[0]["norm"]


def row(rule: str, bits: float, kl: float, text: str = "t") -> dict[str, object]:
    common = {"text": text, "method": "nearest", "code_bits": 4, "groups": rule}
    return {**common, "rule": rule, "bits": bits, "kl": kl, "increase": kl / 2}


def test_a_rule_is_set_against_the_line_between_two_sizes() -> None:
    rows = [row("fixed", 5.0, 0.1), row("fixed", 4.0, 0.5), row("fixed", 4.5, 0.2)]
    rows += [row("fixed", 4.25, 99.0, "other"), row("adaptive", 4.25, 0.28), row("auto", 5.5, 0.1)]
    found = at_equal_bits(rows)
    assert found[:4] == rows[:4]
    assert found[4]["fixed"] == pytest.approx({"kl": 0.35, "increase": 0.175})
    assert found[4]["over_fixed"] == pytest.approx(0.8)
    assert found[5]["over_fixed"] is None
    assert "| adaptive | 4.250 | 0.1400 | 0.2800 | 0.3500 | 0.80 |" in table(found)


def test_grams_are_those_of_the_inputs(setting: Setting) -> None:
    found = input_grams(setting, setting.fit)
    x = setting.embed(setting.fit)
    seen = []
    for index, weights in enumerate(setting.layers):
        with setting.runner.at(index).watch("ffn") as recorded:
            x = setting.layer(index, weights, x)
        seen.append({name: given.flatten(0, -2).double() for name, (given, _) in recorded.items()})
    for grams, inputs in zip(found, seen, strict=True):
        for name, given in inputs.items():
            torch.testing.assert_close(grams[name], given.T @ given / len(given), rtol=1e-4, atol=1e-6)
        assert grams["mlp.gate_proj.weight"] is grams["mlp.up_proj.weight"]
        assert {"self_attn.q_proj.weight", "self_attn.o_proj.weight"} <= grams.keys()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return make_tiny(tmp_path_factory.mktemp("groups"))


def test_the_command_writes_rows_for_every_choice_and_keeps_them(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "bench" / "groups.json"
    arguments = ["--model", str(tiny.model), "--eval", str(tiny.text), "--text", str(tiny.text)]
    arguments += ["--bits", "3", "--alphas", "0.8,0.95", "--windows", "2", "--window", "32"]
    arguments += ["--tokens", "256", "--out", str(out)]
    assert bench.main(arguments) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [r["groups"] for r in rows if r["method"] == "nearest"] == [
        *("row", "256", "128", "64", "32", "16"),
        *("adaptive, alpha 0.8", "adaptive, alpha 0.95", "auto"),
    ]
    kl = {(r["method"], r["groups"]): r["kl"] for r in rows}
    assert 0 < kl["nearest", "16"] < kl["nearest", "row"]
    assert kl["compensated", "row"] < kl["nearest", "row"]
    assert all(3 < r["bits"] <= 4 for r in rows)
    printed = capsys.readouterr().out
    assert printed.count("| int3, compensated |") == 9
    monkeypatch.setattr(bench, "_rows", None)
    assert bench.main(arguments) == 0
    assert json.loads(out.read_text())["rows"] == rows


def test_a_short_text_is_refused(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = tmp_path / "short.txt"
    short.write_text("a b c")
    arguments = ["--model", str(tiny.model), "--eval", str(short), "--window", "64"]
    assert bench.main([*arguments, "--out", str(tmp_path / "groups.json")]) == 1
    assert "short.txt is shorter than one window of 64 tokens" in capsys.readouterr().err
