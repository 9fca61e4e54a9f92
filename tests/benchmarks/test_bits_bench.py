"""Widths and bits against the alternatives: the verdict on points, and the whole command on a tiny model."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.bits import __main__ as bench
from benchmarks.bits.facts import mean_bits
from benchmarks.bits.plot import log_ticks, plot
from benchmarks.bits.rows import Row
from benchmarks.bits.settings import Settings, parse
from benchmarks.bits.shared_run import link
from benchmarks.bits.table import table, verdict_lines
from benchmarks.bits.variants import VARIANTS, chosen
from benchmarks.bits.verdict import (
    Point,
    better,
    better_fronts,
    bytes_of,
    front,
    interpolated,
    points,
    time_of,
    verdict,
)
from lathe.artefact.errors import UserError
from lathe.artefact.plan import LayerShape, ModelShape, Plan
from support import steady_clock
from support.compress_command import Tiny, make_tiny


def point(name: str, ratio: float, increase: float, size: int = 100, error: float = 0.001) -> Point:
    variant = name.split()[0]
    losses = (2.0 + increase, 3.0 + increase)
    family = VARIANTS[variant].family
    return Point(name, variant, family, ratio, error, 10 * ratio, losses, increase, 0.0, size)


OURS = [point("mixed 2x", 0.5, 0.1, 90), point("mixed 3x", 0.3, 0.3, 60), point("mixed 4x", 0.25, 0.6, 40)]


def test_a_front_has_what_nothing_beats_and_is_linear_between() -> None:
    beaten = point("mixed 2.5x", 0.4, 0.35)
    assert front([beaten, *OURS], time_of) == OURS[::-1]
    assert interpolated([beaten, *OURS], time_of, 0.4) == pytest.approx(0.2)
    assert interpolated(OURS, bytes_of, 50) == pytest.approx(0.45)
    assert interpolated(OURS, time_of, 0.9) == 0.1
    assert interpolated(OURS, time_of, 0.2) is None


def test_an_alternative_with_less_loss_counts_unless_it_is_clearly_slower() -> None:
    ours = OURS[0]
    others = [
        point("int8 2x", 0.45, 0.05),
        point("int8 1.5x", 0.502, 0.05),
        point("int4 1.5x", 0.51, 0.05),
        point("float32 2x", 0.45, 0.2),
    ]
    found = better(ours, others)
    assert [row["alternative"] for row in found] == ["int8 2x", "int8 1.5x"]
    assert [row["at_least_as_fast"] for row in found] == [True, False]
    assert found[0]["time"] == pytest.approx(0.9)
    assert found[0]["loss_difference"] == pytest.approx(-0.05)
    assert better(ours, [point("int8 1.5x", 0.51, 0.05, error=0.01)])


def test_a_front_beats_a_point_between_two_of_its_own() -> None:
    int8 = [point("int8 1.5x", 0.6, 0.05), point("int8 4x", 0.4, 0.12)]
    assert better(OURS[0], int8) == []
    assert better_fronts(OURS[0], int8) == {"int8": pytest.approx(0.085)}
    assert better_fronts(OURS[0], [replace(int8[0], ratio=0.55), replace(int8[1], increase=0.2)]) == {}


def test_ratios_are_taken_of_dense_int4_rounded_to_nearest() -> None:
    int4 = point("dense-int4-nearest", 0.45, 0.5, 50)
    found = verdict([int4, point("dense-int4", 0.45, 0.2, 50), *OURS])
    ratios = found["ratios"]
    assert ratios["at_its_time"]["point"] == "mixed 3x"
    assert ratios["at_its_time"]["ratio"] == pytest.approx(0.6)
    assert ratios["at_its_time"]["interpolated_ratio"] == pytest.approx(0.3)
    assert ratios["1.5x_faster"]["ratio"] == pytest.approx(0.6)
    assert ratios["at_its_bytes"]["ratio"] == pytest.approx(1.2)
    lines = list(verdict_lines(found))
    assert lines[0] == "mixed 2x: nothing as fast has less loss"
    assert any(line.startswith("ours at its bytes: 0.6000 (mixed 4x), 1.200 of that") for line in lines)
    fastest = verdict([replace(int4, ratio=0.2), *OURS])
    assert fastest["ratios"]["at_its_time"] is None
    assert "ours at its time: no point is within that" in verdict_lines(fastest)
    assert verdict(OURS)["ratios"] is None


def measured(variant: str, target: float | None, ratio: float, losses: list[float]) -> Row:
    time = {"ratio": ratio, "standard_error": 0.01, "ms": 7.0}
    facts = {"mean_bits": 6.0, "decoder_parameters_kept": 0.8}
    score = {"losses": losses, "weight_bytes": 2**21}
    return Row(variant, target, 1, "made", facts=facts, time=time, score=score)


def test_points_are_of_what_is_timed_and_scored() -> None:
    rows = [
        measured("dense-float32", None, 1.0, [2.0, 3.0]),
        measured("mixed", 2.0, 0.5, [2.1, 3.3]),
        Row("int8", 2.0, 1, "already-met"),
    ]
    found = points(rows)
    assert [p.name for p in found] == ["mixed 2x", "dense-float32"]
    assert found[0].increase == pytest.approx(0.2)
    assert found[0].increase_error == pytest.approx(0.1)
    assert found[0].ms == 3.5
    assert "| mixed 2x | 3.5 | 2.000x ± 1.0% | +0.2000 ± 0.1000 | 2.0 | 6.00 | 80.0% |" in table(found, rows)
    assert points(rows[1:]) == []


def test_bits_are_of_the_weights_that_are_left() -> None:
    shape = ModelShape(64, 120, 16, True, 2, LayerShape(4, 2, 96), norm_before=False)
    attention, ffn = 2 * 64 * 64 + 2 * 64 * 32, 3 * 64 * 96
    plan = Plan((LayerShape(4, 2, 96, attention_bits=8), LayerShape(0, 0, 96, ffn_bits=4)))
    expected = (attention * 8 + ffn * 32 + ffn * 4) / (attention + 2 * ffn)
    assert mean_bits(shape, plan, "mixed") == pytest.approx(expected)
    assert mean_bits(shape, plan.unrounded, "int8") == 8
    assert mean_bits(shape, plan.unrounded, None) == 32


def test_plots_show_every_artefact_but_the_reference() -> None:
    drawn = ElementTree.fromstring(
        plot("title", [*OURS, point("llama.cpp-q4_0", 0.3, 0.2), point("dense-float32", 1.0, 0.0)])
    )
    tips = [title.text for title in drawn.iter("{http://www.w3.org/2000/svg}title")]
    assert sum("mixed 3x: 3 ms" in (tip or "") for tip in tips) == 2
    assert not any("dense-float32" in (tip or "") for tip in tips)
    assert log_ticks((0.22, 0.43)) == [0.25, 0.3, 0.4]
    assert log_ticks((0.9, 120)) == [1, 2, 5, 10, 20, 50, 100]
    assert log_ticks((1e-4, 1.0)) == [1e-4, 1e-3, 1e-2, 0.1, 1.0]


def test_what_a_variant_rounds_is_made_before_it() -> None:
    assert [v.name for v in chosen("int4-nearest")] == ["dense-float32", "int4", "int4-nearest"]
    with pytest.raises(UserError, match="no variant int5"):
        chosen("int5")


def test_a_lent_run_directory_shares_files_but_not_what_grows(tmp_path: Path) -> None:
    shared, run = tmp_path / "shared.run", tmp_path / "a.run"
    shared.mkdir()
    for name in ("layer.safetensors", "trace.jsonl", "lock"):
        (shared / name).write_text("kept\n")
    link(shared, run)
    with (run / "trace.jsonl").open("a") as file:
        file.write("more\n")
    assert (shared / "trace.jsonl").read_text() == "kept\n"
    assert (run / "layer.safetensors").samefile(shared / "layer.safetensors")
    assert not (run / "lock").samefile(shared / "lock")


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latencies follow from plans, not from this machine."""
    steady_clock.hold(monkeypatch)


def arguments(tiny: Tiny, place: Path, *more: str) -> list[str]:
    files = ["--model", str(tiny.model), "--text", str(tiny.text), "--evaluation", str(tiny.text)]
    short = ["--tokens", "2048", "--windows", "2", "--evaluations", "20", "--context", "64"]
    kept = ["--work", str(place / "work"), "--out", str(place / "bits.json"), "--quiet"]
    return [*files, *short, "--method", "quick", *kept, *more]


@pytest.mark.usefixtures("steady")
def test_the_command_makes_times_and_scores_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LATHE_CACHE", str(tmp_path / "cache"))
    tiny = make_tiny(tmp_path)
    targets = ("--targets", "1.2x,50x", "--variants", "mixed,dense-int4-nearest,dense-int4,int4-nearest")

    def run(*more: str) -> dict[tuple[str, float | None], Row]:
        monkeypatch.setattr(sys, "argv", ["bits", *arguments(tiny, tmp_path, *targets, *more)])
        assert bench.main() == 0
        document = json.loads((tmp_path / "bits.json").read_text())
        return {(row["variant"], row["target"]): Row(**row) for row in document["rows"]}

    rows = run()
    shown = capsys.readouterr().out
    assert {name for name, row in rows.items() if row.complete} == {
        ("dense-float32", None),
        ("dense-int4-nearest", None),
        ("dense-int4", None),
        ("mixed", 1.2),
        ("int4", 1.2),
        ("int4-nearest", 1.2),
    }
    assert rows["mixed", 50.0].status == "refused"
    assert "out of reach" in (rows["mixed", 50.0].reason or "")
    ours, dense = rows["mixed", 1.2], rows["dense-float32", None]
    assert ours.facts["met"]
    assert ours.time["ratio"] <= 1.02 / 1.2
    assert ours.score["weight_bytes"] < dense.score["weight_bytes"]
    assert "mixed 1.2x" in shown
    assert (tmp_path / "bits-batch1.svg").is_file()

    monkeypatch.setattr(bench, "score", None)  # nothing is scored again
    assert run()["mixed", 1.2] == ours
    again = run("--remeasure")["mixed", 1.2]
    assert again.score == ours.score
    assert again.time["ratio"] == ours.time["ratio"]


def test_rows_of_other_settings_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = make_tiny(tmp_path)
    settings: Settings = parse("", arguments(tiny, tmp_path, "--targets", "2x"))
    bench.Document(settings).change()
    other = [*arguments(tiny, tmp_path), "--seed", "1"]
    for given, problem in (
        (other, "has rows of other settings"),
        ([*other, "--batch-sizes", "1,0"], "`0` is not a batch size"),
        ([*other, "--targets", "0.5x"], "is not a speed-up"),
    ):
        monkeypatch.setattr(sys, "argv", ["bits", *given])
        assert bench.main() == 1
        assert problem in capsys.readouterr().err
