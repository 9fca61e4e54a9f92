"""`make bench-serving`, small: our engine and PyTorch in their processes, and rivals that cannot run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.serving import __main__ as bench
from benchmarks.serving import bandwidth, contest
from benchmarks.serving.agreement import Reference, agreement, reference
from benchmarks.serving.models import dense_model, subnet
from benchmarks.serving.rival import rivals
from benchmarks.serving.summary import summarize

_HERE = ["--python", f"lathe={sys.executable}", "--python", f"torch={sys.executable}"]
_SMALL = [
    "--shape",
    "tiny",
    "--rounds",
    "1",
    "--batches",
    "1,2",
    "--prompt",
    "16",
    "--steps",
    "8",
    "--threads",
    "1",
    "--served-rounds",
    "0",
]


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> dict[str, Any]:
    """The tiny shape's columns, as the command writes them. Memory is read in a small buffer: other tests
    look at this process's peak."""
    monkeypatch.setattr(bandwidth, "_LEAST", 2**20)
    monkeypatch.setattr(bandwidth, "_last_level_cache", lambda: 0)
    out = folder / "serving.json"
    monkeypatch.setattr(sys, "argv", ["bench", *_SMALL, "--out", str(out), "--work", str(folder), *options])
    bench.main()
    found: dict[str, Any] = json.loads(out.read_text())["runs"]["tiny"]["columns"]
    return found


def test_ours_and_pytorch_run_the_same_weights_and_every_figure_has_its_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    column = run(tmp_path, monkeypatch, "--columns", "fp32", "--rivals", "lathe,torch", *_HERE)["fp32"]
    systems = column["systems"]
    assert set(systems) == {"lathe", "lathe subnet", "torch"}
    for facts in systems.values():
        assert facts["agreement"]["same_model"]
        assert facts["agreement"]["relative_error"] < 1e-4
        assert facts["agreement"]["greedy_tokens_equal"] == facts["agreement"]["greedy_tokens"] == 4 * 17
        assert facts["resident_bytes"] > facts["streamed_bytes"] > 0
    assert systems["lathe"]["streamed_bytes"] == systems["torch"]["streamed_bytes"]
    assert systems["lathe"]["kv_bytes"] == systems["torch"]["kv_bytes"]
    assert systems["lathe subnet"]["streamed_bytes"] < systems["lathe"]["streamed_bytes"]
    assert [len(turn["decode_ms"]) for entry in column["rounds"] for turn in entry["turns"].values()] == [
        8
    ] * 6
    assert {(row["batch"], row["system"]) for row in column["summary"]} == {
        (batch, name) for batch in (1, 2) for name in systems
    }
    assert [found["batch"] for found in column["operators"]] == [1, 2]
    assert all("GroupQueryAttention" in found["operators_us"] for found in column["operators"])
    shown = capsys.readouterr().out
    assert "| 2 | lathe subnet | fp32 |" in shown
    assert "our step at batch 2" in shown


def test_who_is_not_installed_crashes_or_lacks_a_format_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pythons = ["--python", "genai=/nowhere/python", "--python", "torch=/bin/false"]
    names = "lathe,genai,torch"
    column = run(tmp_path, monkeypatch, "--columns", "bf16", "--rivals", names, *pythons)["bf16"]
    reasons = {name: facts["failed"] for name, facts in column["systems"].items()}
    assert reasons["genai"] == "has no bf16"
    assert reasons["torch"].startswith("open: no answer")
    assert reasons["lathe"] == reasons["lathe subnet"] == "has no bf16"
    column = run(tmp_path, monkeypatch, "--columns", "fp32", "--rivals", "genai", *pythons)["fp32"]
    assert column["systems"]["genai"]["failed"] == "not installed: there is no /nowhere/python"
    assert column["summary"] == []
    assert "genai: not installed" in capsys.readouterr().out


class Turns:
    """In place of systems: turns that end the run at one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.taken: list[tuple[int, int]] = []
        self.last: tuple[int, int] | None = None
        self.saved: list[int] = []
        for name in ("_open", "_check", "_watch_idle"):
            monkeypatch.setattr(contest, name, lambda *_: None)
        monkeypatch.setattr(contest, "_round", self._round)

    def run(self, before: contest.Column | None = None) -> contest.Column:
        setting = contest.Setting({}, {}, np.zeros((2, 4)), [1, 2], 8, 2, 1, ["torch"], {}, Path())
        return contest.run_column("fp32", setting, None, before, self._save)  # type: ignore[arg-type]

    def _save(self, column: contest.Column) -> None:
        self.column = json.loads(json.dumps(column))
        self.saved.append(len(column["rounds"]))

    def _round(self, index: int, batch: int, *_: Any) -> dict[str, Any]:
        if (index, batch) == self.last:
            raise KeyboardInterrupt
        self.taken.append((index, batch))
        return {"round": index, "batch": batch, "turns": {}}


def test_a_run_that_was_ended_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = Turns(monkeypatch)
    turns.last = (1, 1)
    with pytest.raises(KeyboardInterrupt):
        turns.run()
    assert turns.saved == [1, 2]
    turns.last = None
    column = turns.run(turns.column)
    assert turns.taken == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert [(entry["round"], entry["batch"]) for entry in column["rounds"]] == turns.taken
    assert turns.run(column) is column


def test_other_settings_are_not_gone_on_with() -> None:
    run = {"threads": 2, "command": "python x", "columns": {}}
    assert bench._same(run, {"threads": 2, "command": "python y"})
    assert not bench._same(run, {"threads": 1, "command": "python x"})
    assert not bench._same({"columns": {}}, {"threads": 2})


def test_of_who_gives_no_logits_the_tokens_are_compared() -> None:
    leads = np.array([[3.0, 2.0, 1.0]])
    wanted = Reference(torch.zeros(1, 4), np.array([[1, 2, 3]]), leads)
    found = agreement(None, np.array([[1, 0, 3]]), wanted, False)
    assert found == {"greedy_tokens_equal": 1, "greedy_tokens": 3, "largest_lead_missed_nats": 2.0}


def test_another_model_is_found_out(tmp_path: Path) -> None:
    dense = dense_model("tiny", tmp_path)
    other = subnet(dense, 0.5, tmp_path)
    prompts = np.random.default_rng(0).integers(0, 2048, (2, 16))
    wanted, found = reference(dense, prompts, 4), reference(other, prompts, 4)
    assert agreement(wanted.logprobs.numpy(), wanted.tokens, wanted, False)["same_model"]
    found_agreement = agreement(found.logprobs.numpy(), found.tokens, wanted, False)
    assert not found_agreement["same_model"]
    assert found_agreement["greedy_tokens_equal"] < found_agreement["greedy_tokens"]
    assert found_agreement["largest_lead_missed_nats"] > 0


def test_figures_follow_from_samples() -> None:
    """Two rounds in which the machine halves its speed: ratios and shares stay what they are."""

    def turn(step: float, prefill: float, rate: float) -> dict[str, Any]:
        return {"prefill_ms": prefill, "decode_ms": [50.0] * 4 + [step] * 4, "read_bytes_per_second": rate}

    rounds = [
        {
            "round": index,
            "batch": 2,
            "memory_bytes_per_second": 1e9 / slower,
            "turns": {
                "a": turn(4 * slower, 40 * slower, 2e9 / slower),
                "b": turn(8 * slower, 20 * slower, 1e9 / slower),
            },
        }
        for index, slower in enumerate((1, 2))
    ]
    facts = {"model": "dense", "format": "f", "streamed_bytes": 2_000_000, "kv_bytes": 5_000}
    column = {"systems": {"a": facts, "b": facts, "gone": {"failed": "why"}}, "rounds": rounds}
    first, second = summarize(column, prompt=94)
    assert (first["system"], second["system"]) == ("a", "b")
    assert first["decode"] == {"tokens_per_second": 2e3 / 6, "step_ms": 6.0, "ratio_to_first": 1.0}
    assert second["decode"]["ratio_to_first"] == 0.5
    assert first["prefill"]["ratio_to_first"] == 0.5
    assert second["prefill"]["tokens_per_second"] == pytest.approx(0.75 * 2 * 94 / 0.02)
    assert first["kv_bytes_a_step"] == 2 * 5_000 * 100
    assert first["share_of_memory"] == pytest.approx(3e6 / 1e9 / 4e-3)
    assert first["share_of_read"] == pytest.approx(3e6 / 2e9 / 4e-3)


def test_every_rival_names_an_environment_and_known_formats() -> None:
    for name in rivals.known():
        rival = rivals.get(name)
        assert rival.python.startswith(".venv")
        assert {"int8"} <= set(rival.formats) <= {"fp32", "bf16", "int8", "int4"}
