"""The comparison of search engines: rows, a run that goes on, its tables in the documentation."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.search import __main__ as bench
from benchmarks.search.page import PAGE, ROOT, written
from benchmarks.search.table import table, verdict
from support import steady_clock
from support.compress_command import Tiny, make_tiny


def run(tiny: Tiny, out: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    texts = ["--text", str(tiny.text), "--eval", str(tiny.text), "--tokens", "1024", "--windows", "1"]
    place = ["--model", str(tiny.model), "--out", str(out), "--budgets", "1.3x"]
    monkeypatch.setattr(sys, "argv", ["search", *place, *texts, *options])
    return bench.main()


def test_the_command_writes_its_rows_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steady_clock.hold(monkeypatch)
    monkeypatch.setenv("LATHE_CACHE", str(tmp_path / "cache"))
    tiny, out = make_tiny(tmp_path), tmp_path / "bench" / "search.json"
    assert run(tiny, out, monkeypatch, "--engines", "lathe") == 0
    first = json.loads(out.read_text())["rows"]
    others = "policy-gradient:8,paper:20,gisp:4,grasprune:3"
    assert run(tiny, out, monkeypatch, "--engines", f"lathe,{others}", "--measure") == 0
    document = json.loads(out.read_text())
    assert document["rows"][:1] == first
    lathe, policy, paper, gisp, grasprune = document["rows"]
    assert [row["engine"] for row in document["rows"]] == ["lathe", *others.split(",")]
    for row in document["rows"]:
        assert row["predicted_ms"] <= document["dense_ms"] / 1.3 * (1 + 1e-9)
        assert row["loss"] == pytest.approx(row["dense_loss"] + row["increase"])
        assert min(row["seconds"], row["cpu_seconds"]) > 0
    assert policy["measured_speedup"] == pytest.approx(policy["speedup"], rel=0.01)
    assert policy["forward_tokens"] > lathe["forward_tokens"] > 0
    assert (policy["backward_tokens"], paper["backward_tokens"]) == (0, 0)
    for row in (gisp, grasprune):
        assert 0 < row["backward_tokens"] < row["forward_tokens"] / 2
        assert row["table_cpu_seconds"] == 0
    assert grasprune["heldout"][0] >= grasprune["fitness"] == min(grasprune["heldout"])
    assert (paper["table_cpu_seconds"], lathe["table_cpu_seconds"] > 0) == (0, True)
    assert policy["fitness"] == min(policy["finalists"])
    assert len(policy["heldout"]) == 2
    assert "lathe at 1.3x" in (out.parent / "search-text.svg").read_text()
    assert table(document["rows"]) in capsys.readouterr().out
    assert run(tiny, out, monkeypatch, "--seed", "1") == 1
    assert run(tiny, tmp_path / "other.json", monkeypatch, "--engines", "abacus") == 1
    assert run(tiny, tmp_path / "other.json", monkeypatch, "--engines", "lathe:few") == 1


def row(engine: str, increase: float) -> dict[str, Any]:
    numbers = (
        "speedup",
        "increase_before",
        "cpu_seconds",
        "table_cpu_seconds",
        "forward_tokens",
        "peak_memory_bytes",
    )
    return dict.fromkeys(numbers, 1.5) | {
        "engine": engine,
        "increase": increase,
        "text": "a",
        "budget": "2x",
    }


def test_the_default_is_told_where_it_is_not_first() -> None:
    assert verdict([row("lathe", 0.1), row("paper", 0.2)]) == []
    (line,) = verdict([row("lathe", 0.1), row("paper", 0.05)])
    assert line == "a at 2x: paper has 0.0500 nats per token less than lathe"


def test_medians_of_seeds_are_told_with_the_seeds_that_agree() -> None:
    losses = {"lathe": (0.1, 0.5, 0.3), "tyr": (0.2, 0.1, 0.2)}
    rows = [row(name, loss) for name, found in losses.items() for loss in found]
    assert verdict(rows) == ["a at 2x: tyr has 0.1000 nats per token less than lathe, in 2 of 3 seeds"]


def test_seeds_are_one_row_of_medians(tmp_path: Path) -> None:
    losses = {"lathe": (0.1, 0.9, 0.3), "tyr": (0.5, 0.2, 0.6), "gisp": (0.01,)}
    for seed in range(3):
        rows = [row(name, found[seed]) for name, found in losses.items() if seed < len(found)]
        document = {"command": f"made {seed}", "machine": {"processor": "Z80"}, "rows": rows}
        (tmp_path / f"search-toy-seed{seed}.json").write_text(json.dumps(document))
    full = written("<!-- search tables -->\n<!-- end of search tables -->", tmp_path)
    assert full.count("### ") == 1
    assert "| lathe | 3 | 1.500x | 1.5000 | 0.3000 |" in full
    assert "| tyr | 3 | 1.500x | 1.5000 | 0.5000 |" in full
    assert "less than lathe" not in full, "one seed says nothing against three"


def test_the_page_has_the_tables_of_the_results() -> None:
    page = PAGE.read_text()
    assert written(page, ROOT / "benchmarks" / "results") == page


def test_tables_are_written_between_their_marks(tmp_path: Path) -> None:
    document = {"command": "made", "machine": {"processor": "Z80"}, "rows": [row("lathe", 0.1)]}
    (tmp_path / "search-toy.json").write_text(json.dumps(document))
    page = "a\n\n<!-- search tables -->\n\nNo run is recorded yet.\n\n<!-- end of search tables -->\n\nb\n"
    full = written(page, tmp_path)
    assert "### toy" in full
    assert table(document["rows"]) in full
    assert written(full, tmp_path) == full
    (tmp_path / "search-toy.json").unlink()
    assert written(full, tmp_path) == page
