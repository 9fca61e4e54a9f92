"""Equal bytes on a tiny model: every contender inside its budget and near it, subnets from the product."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.quality import equal_bytes
from benchmarks.quality.equal_bytes import FLOAT16, INT4, INT8, budgets, contenders, table
from benchmarks.quality.product import Product, options_for
from lathe.compressor.compute.progress import Progress
from support.compress_command import make_tiny


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    place = tmp_path_factory.mktemp("equal")
    tiny = make_tiny(place)
    opened = Product.open(options_for(str(tiny.model), str(tiny.text), 2048, 0, place), Progress(quiet=True))
    yield opened
    opened.context.run_dir.close()


def test_contenders_fill_their_budget_and_never_pass_it(product: Product) -> None:
    setting = product.setting()
    asked = budgets(setting)
    whole = 2 * setting.dense_parameters
    assert FLOAT16.store(setting.layers)[1] == whole
    assert 0.5 < asked["int8 dense"] / whole < 0.56
    assert 0.28 < asked["int4 dense"] / whole < 0.32
    for name, budget in asked.items():
        found = list(contenders(product, setting, budget, 20))
        assert [c.name for c in found] == ["dense"] + ["subnet"] * (len(found) - 1)
        for contender in found:
            assert contender.size <= budget
            assert contender.size == contender.format.store(contender.layers)[1]
            if contender.name == "subnet":
                assert contender.size > 0.9 * budget
                kept = sum(t.numel() for layer in contender.layers for t in layer.values())
                assert kept <= contender.keep * setting.dense_parameters
        forms = {"int8 dense": [INT8, FLOAT16], "int4 dense": [INT4, FLOAT16, INT8]}
        if name in forms:
            assert [c.format for c in found] == forms[name]
    assert [c.format for c in found[1:]] == [FLOAT16, INT8, INT4]
    assert found[0].format.bits == 3


def test_the_command_writes_its_rows_and_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny, out = make_tiny(tmp_path), tmp_path / "bench" / "equal.json"
    arguments = ["--model", str(tiny.model), "--text", str(tiny.text), "--eval", str(tiny.text)]
    short = ["--tokens", "2048", "--windows", "1", "--evaluations", "20", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["equal_bytes", *arguments, *short])
    equal_bytes.main()
    rows = json.loads(out.read_text())["rows"]
    assert {row["budget"] for row in rows} == {
        "int8 dense",
        "1.5 x int4 dense",
        "int4 dense",
        "0.75 x int4 dense",
    }
    assert all(row["weight_bytes"] <= row["budget_bytes"] + 1 for row in rows)
    int8 = next(row for row in rows if row["contender"] == "dense int8 per channel")
    assert abs(int8["increase"]) < 0.05
    assert int8["agreement"] > 0.9
    shown = capsys.readouterr().out
    assert table(rows) in shown
    assert shown.count("| dense int") == 4
