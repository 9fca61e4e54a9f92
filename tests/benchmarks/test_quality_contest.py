"""The comparison's loop on a tiny model: rows, what a method is told, and a run that goes on."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from benchmarks.quality.contest import Contest
from benchmarks.quality.setting import Setting, Subnet, baselines
from benchmarks.quality.table import table
from lathe.artefact.errors import UserError
from support.compress_command import Tiny, make_tiny


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return make_tiny(tmp_path_factory.mktemp("contest"))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, int | None]]:
    """What the baseline `dense-again` was told: keep and evaluations."""
    calls: list[tuple[float, int | None]] = []

    def dense_again(setting: Setting, keep: float) -> Subnet:
        calls.append((keep, setting.evaluations))
        return setting.subnet(list(setting.layers), candidates=setting.evaluations or 7)

    baselines.known()
    monkeypatch.setitem(baselines._values, "dense-again", dense_again)
    return calls


def contest(tiny: Tiny, out: Path, **changes: object) -> Contest:
    arguments = {
        "model": str(tiny.model),
        "text": str(tiny.text),
        "eval": str(tiny.text),
        "tokens": 2048,
        "windows": 1,
        "keeps": "80%,50%",
        "methods": "dense-again",
        "evaluations": "",
        "tasks": "",
        "task_path": None,
        "limit": None,
        "out": out,
    }
    return Contest(argparse.Namespace(**arguments | changes))


def test_baselines_and_product_are_told_how_many_candidates_to_evaluate(
    tiny: Tiny, tmp_path: Path, told: list[tuple[float, int | None]]
) -> None:
    evaluated = []
    for number, out in ((1, "q.json"), (40, "r.json")):
        asked = contest(
            tiny,
            tmp_path / out,
            methods="dense-again,lathe",
            keeps="50%",
            evaluations=f"dense-again={number},lathe={number}",
        )
        asked.run(0)
        counts = {row["method"]: row["candidates"] for row in asked.rows}
        assert counts["dense-again"] == number
        evaluated.append(counts["lathe"])
    assert evaluated[0] < evaluated[1]
    contest(tiny, tmp_path / "s.json", keeps="50%").run(0)
    assert told == [(0.5, 1), (0.5, 40), (0.5, None)]


def test_rows_on_disk_are_not_made_again(
    tiny: Tiny, tmp_path: Path, told: list[tuple[float, int | None]]
) -> None:
    out = tmp_path / "q.json"
    contest(tiny, out, keeps="80%").run(0)
    contest(tiny, out).run(0)
    assert [keep for keep, _ in told] == [0.8, 0.5]
    rows = json.loads(out.read_text())["rows"]
    assert [row["keep"] for row in rows] == ["80%", "50%"]
    assert all(row["increase"] == pytest.approx(0, abs=1e-6) and row["agreement"] == 1 for row in rows)


def test_a_method_that_cannot_be_run_on_a_model_says_so_and_others_go_on(
    tiny: Tiny,
    tmp_path: Path,
    told: list[tuple[float, int | None]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def unfit(_setting: Setting, _keep: float) -> Subnet:
        raise UserError("unfit: its blocks are round")

    monkeypatch.setitem(baselines._values, "unfit", unfit)
    asked = contest(tiny, tmp_path / "q.json", methods="unfit,dense-again", keeps="50%")
    asked.run(0)
    assert [row["method"] for row in asked.rows] == ["dense-again"]
    assert told == [(0.5, None)]
    assert "unfit 50% seed 0: no row. unfit: its blocks are round" in capsys.readouterr().out


def test_tables_tell_training_free_methods_from_the_others() -> None:
    def row(method: str, increase: float, **facts: object) -> dict[str, object]:
        shared = {"keep": "50%", "text": "t", "candidates": 0, "seconds": 1, "peak_memory_bytes": 0}
        return {"method": method, "increase": increase, **shared, **facts}

    shown = table([row("lathe", 0.2), row("flap", 0.5), row("gates", 0.4, trained="gates"), row("int8", 0.1)])
    assert "| gates (trained) | 0.400 |" in shown
    assert "lathe over the best training-free method: 50%: 0.40" in shown
    assert "lathe over the best of the others: 50%: 0.50" in shown
