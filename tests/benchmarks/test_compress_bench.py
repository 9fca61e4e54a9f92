"""`make bench-compress`: stages that match, processes read and stopped from outside, and true ratios."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from benchmarks.compress import __main__ as bench
from benchmarks.compress import compare, memory, models, process_tree, summary
from benchmarks.compress.interleave import interleave
from benchmarks.compress.models import first_layers, prepare_model
from benchmarks.compress.same_losses import same_losses
from benchmarks.compress.staged_process import Segment, StagedProcess
from benchmarks.compress.stages import END, NAMES, Place, stage_name
from benchmarks.source_tree import ROOT, SourceTree, checkout, snapshot
from lathe.artefact.errors import UserError
from lathe.compressor.model.checkpoint import open_checkpoint
from support.tiny_llama import CONFIG
from support.tiny_models import tiny

_APART = {
    "start: workers",
    "plan: weights of equal size",
    "one-bit weights: layers",
    "tune: trials",
    "tune: other seeds",
    "verify: subnets on the text of all domains",
    "train the router",
}
"""Stages of other jobs than a compression in one process."""


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("measure: dense and the smallest subnet (tpot)", "measure: dense and floor"),
        ("measure: latency table (ttft)", "measure: latency table"),
        ("calibrate and order: layers", "calibrate and rank"),
        ("calibrate and rank: layers", "calibrate and rank"),
        ("search: damage of each block at each level", "search: sensitivities"),
        ("search: sensitivity of each block at each level", "search: sensitivities"),
        ("reform: layers", "reconstruct: layers"),
        ("reform: the model writes more text", "reconstruct: text"),
        ("reconstruct: the whole subnet", "reconstruct: whole subnet"),
        ("export: checkpoint and onnx", "export"),
        ("verify: what onnx-int4 costs", "verify: quality"),
        ("a stage of next year", "a stage of next year"),
        (None, END),
    ],
)
def test_a_stage_is_known_by_its_titles_of_both_commits(title: str | None, name: str) -> None:
    assert stage_name(title) == name


def test_every_title_of_this_tree_is_listed() -> None:
    source = "\n".join(file.read_text() for file in (ROOT / "compressor").rglob("*.py"))
    titles = set(re.findall(r'\bstage\(\s*"([^"]+)"', source)) - _APART
    assert len(titles) > 5
    assert [title for title in titles if stage_name(title) not in NAMES] == []


def test_a_run_is_in_its_next_iteration_when_it_searches_or_reconstructs_after_an_export() -> None:
    place = Place()
    for name in ("calibrate and rank", "search: plans", "a stage of next year", "search: sensitivities"):
        place = place.after(name)
    assert place == Place(0, NAMES.index("search: plans"))
    assert place.after("verify: quality").after("reconstruct: layers") > place.after(END)


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Any]:
    """Makes processes that run a script; kills what is left of them."""
    made: list[StagedProcess] = []

    def start(script: str) -> StagedProcess:
        (tmp_path / "staged.py").write_text("import sys, time\n" + script)
        made.append(StagedProcess("staged", [], tmp_path, os.environ, tmp_path / "stdout.log"))
        return made[-1]

    yield start
    for process in made:
        process.kill()


def ended(title: str) -> str:
    """A statement that ends a stage as `lathe compress` does."""
    return f"print('  {title}: 1.5 s, peak memory 12 MiB', file=sys.stderr, flush=True)\n"


_SPIN = "while time.process_time() < {seconds}: pass\n"
_HOLD = "held = bytearray({mebibytes} << 20)\nheld[::4096] = b'x' * len(held[::4096])\n"


def test_segments_have_the_cpu_time_and_the_peak_of_their_stage(started: Any) -> None:
    script = _SPIN.format(seconds=0.4) + ended("one")
    script += _HOLD.format(mebibytes=100) + "del held\n" + ended("two") + ended("three")
    process = started(script + "print('note', file=sys.stderr)\nsys.exit(3)\n")
    segments = [process.run_stage() for _ in range(4)]
    assert [segment.title for segment in segments] == ["one", "two", "three", None]
    assert segments[0].cpu_seconds >= 0.35
    assert sum(segment.cpu_seconds for segment in segments[1:]) < segments[0].cpu_seconds
    assert process.peaks_reset
    small = segments[0].peak_bytes
    assert segments[1].peak_bytes > small + (90 << 20)
    assert segments[2].peak_bytes < small + (40 << 20)
    assert process.exit_status == 3
    assert not process.failed
    assert process.last_lines[-1] == "note"


def test_between_stages_a_process_and_its_children_use_no_cpu_time(started: Any) -> None:
    child = "[sys.executable, '-c', 'while True: pass']"
    script = f"import subprocess\nsubprocess.Popen({child})\n" + ended("one")
    process = started(script + "while True: pass\n")
    process.run_stage()
    root = process._process.pid
    assert len(process_tree.members(root)) == 2
    assert not process_tree.running(process_tree.members(root))
    before = process_tree.cpu_seconds(root)
    time.sleep(0.3)
    assert process_tree.cpu_seconds(root) == before
    process.kill()
    assert process.exit_status == -9
    assert process.killed
    assert process_tree.members(root) == [root]


def test_a_command_that_fails_is_found_out_and_keeps_its_last_words(started: Any) -> None:
    process = started("print('error: no such model', file=sys.stderr)\nsys.exit(1)\n")
    assert process.run_stage().title is None
    assert process.failed
    assert list(process.last_lines) == ["error: no such model"]


class Scripted:
    """Runs stages of a list instead of a process."""

    def __init__(self, titles: list[str], status: int = 0) -> None:
        self._titles, self._status = list(titles), status
        self.exit_status: int | None = None

    @property
    def failed(self) -> bool:
        return self.exit_status == 1

    def run_stage(self) -> Segment:
        if self._titles:
            return Segment(self._titles.pop(0), 1.0, 1.0, 1)
        self.exit_status = self._status
        return Segment(None, 1.0, 1.0, 1)


def turns(sides: Mapping[str, Any]) -> list[str]:
    told: list[str] = []
    interleave(sides, lambda name, segment: told.append(f"{name} {stage_name(segment.title)}"))
    return told


def test_the_run_that_is_behind_goes_on() -> None:
    table = "measure: latency table (tpot)"
    old = Scripted(["calibrate and order: layers", table, table, table, "reform: layers"])
    new = Scripted(["calibrate and rank: layers", "one new stage", table, "reconstruct: layers"])
    assert turns({"old": old, "new": new}) == [
        "old calibrate and rank",
        "new calibrate and rank",
        "old measure: latency table",
        "new one new stage",
        "new measure: latency table",
        "old measure: latency table",
        "new reconstruct: layers",
        "old measure: latency table",
        "old reconstruct: layers",
        "new end",
        "old end",
    ]


def test_when_one_run_fails_the_other_is_not_run_on() -> None:
    assert turns({"old": Scripted([], status=1), "new": Scripted(["reconstruct: layers"])}) == ["old end"]


def side(seconds: float, peak: int, loss: float, met: bool = True) -> dict[str, Any]:
    segments = [
        Segment("reform: the whole subnet", 3 * seconds, 2 * seconds, peak),
        Segment("reconstruct: the whole subnet", seconds, seconds, peak // 2),
        Segment(None, 1.0, 0.5, 10),
    ]
    return {
        "stages": summary.by_stage(segments),
        "whole": summary.whole(segments),
        "peaks_by_stage": True,
        "result": {"loss": {"dense": 2.0, "subnet": 2 + loss}, "loss_increase": loss, "met": met},
    }


def test_ratios_are_medians_over_rounds_of_ours_over_the_baseline() -> None:
    rounds = [
        {"ours": side(seconds, 200, 0.3), "baseline": side(10.0, 800, 0.2)} for seconds in (1.0, 2.0, 9.0)
    ]
    assert rounds[0]["ours"]["stages"]["reconstruct: whole subnet"] == {
        "times": 2,
        "wall_seconds": 4.0,
        "cpu_seconds": 3.0,
        "peak_bytes": 200,
    }
    found = summary.ratios(rounds)
    assert list(found["stages"]) == ["reconstruct: whole subnet", END]
    whole_subnet = {"wall_seconds": 0.2, "cpu_seconds": 0.2, "peak_bytes": 0.25}
    assert found["stages"]["reconstruct: whole subnet"] == whole_subnet
    assert found["whole"]["wall_seconds"] == pytest.approx(9 / 41, abs=1e-4)
    assert found["loss_increase"] == 1.5


def test_a_stage_of_one_side_has_no_ratio_and_what_spoils_a_ratio_is_told() -> None:
    one = {"ours": side(1.0, 200, 0.3, met=False), "baseline": side(1.0, 200, 0.3)}
    del one["ours"]["stages"]["reconstruct: whole subnet"]
    one["baseline"]["result"]["loss"] = {"dense": 2.5, "subnet": 2.8}
    assert summary.ratios([one])["stages"]["reconstruct: whole subnet"]["wall_seconds"] is None
    notes = summary.remarks([one])
    assert ["different tokens" in note for note in notes] == [True, False]
    assert "ours missed its target" in notes[1]
    one["ours"]["result"] = None
    assert summary.ratios([one])["loss_increase"] is None


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_the_first_layers_are_those_of_the_model(tmp_path: Path, family: str) -> None:
    whole = tiny(tmp_path, family, "tied", "shards").model
    source = open_checkpoint(str(whole))
    first = first_layers(source, 2, tmp_path / "scratch")
    expected = AutoModelForCausalLM.from_pretrained(whole, dtype=torch.float32).eval()
    del expected.model.layers[2:]
    expected.config.num_hidden_layers = 2
    tokens = torch.arange(20)[None]
    model = AutoModelForCausalLM.from_pretrained(first, dtype=torch.float32).eval()
    with torch.inference_mode():
        torch.testing.assert_close(model(tokens).logits, expected(tokens).logits)
    assert (first / "tokenizer.json").is_file()
    with pytest.raises(UserError, match=r"--layers 9: .* has \d layers"):
        first_layers(source, 9, tmp_path / "scratch")


def test_models_that_are_missing_or_too_big_for_the_disk_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="is no directory"):
        prepare_model(str(tmp_path / "nowhere"), None, tmp_path)
    model = tiny(tmp_path, "llama", "tied", "shards").model
    monkeypatch.setattr(models, "free_space", lambda path: (path, 1000))
    with pytest.raises(UserError, match="0.0 GiB free"):
        prepare_model(str(model), None, tmp_path)


def test_trees_are_a_commit_and_a_copy_of_this_one(tmp_path: Path) -> None:
    commit = checkout("HEAD", tmp_path / "commit")
    assert re.fullmatch("[0-9a-f]{40}", commit.commit)
    here = snapshot(tmp_path / "here")
    assert here.commit.rstrip("+") == commit.commit
    for tree in (commit, here):
        assert (tree.path / "lathe" / "compressor" / "cli" / "compress.py").is_file()
        assert tree.command("plan")[1:] == ["-m", "lathe", "plan"]
    assert Path(__file__).read_text() == (here.path / Path(__file__).relative_to(ROOT)).read_text()
    with pytest.raises(UserError, match="has no commit no-such"):
        checkout("no-such", tmp_path / "none")


_COMMAND = """
import json, pathlib, sys
options = dict(zip(sys.argv[3::2], sys.argv[4::2]))
def stage(title): print(f"  {title}: 0.0 s, peak memory 9 MiB", file=sys.stderr, flush=True)
assert sys.argv[1] == "compress" and pathlib.Path(sys.argv[2], "config.json").is_file()
stage("calibrate and rank: layers")
if LOSS is None:
    sys.exit("error: it broke")
stage("reconstruct: layers")
latency = dict.fromkeys(("metric", "context", "batch_size"))
latency |= dict.fromkeys(("target_ms", "predicted_ms", "dense_ms", "measured_ms", "speedup"), 1.5)
report = {"loss": {"dense": 2.0, "subnet": 2.0 + LOSS}, "perplexity": {"dense": 7.4, "subnet": 8.0},
    "latency": latency | {"rounds": [1]}, "met": True, "decoder_parameters_kept": 0.5, "options": options}
out = pathlib.Path(options["-o"])
out.mkdir()
(out / "report.json").write_text(json.dumps(report))
"""


def fake_tree(folder: Path, loss: float | None) -> SourceTree:
    """A tree whose `lathe compress` says that it compresses."""
    (folder / "lathe").mkdir(parents=True)
    (folder / "lathe" / "__init__.py").touch()
    (folder / "lathe" / "__main__.py").write_text(f"LOSS = {loss}\n{_COMMAND}")
    return SourceTree(folder, folder.name)


def run(
    monkeypatch: pytest.MonkeyPatch, folder: Path, losses: Mapping[str, float | None], *options: str
) -> int:
    """Runs the benchmark on fake trees; returns its exit status."""
    for place, name in ((compare, "baseline"), (compare, "ours"), (memory, "ours")):
        maker = "checkout" if name == "baseline" else "snapshot"
        monkeypatch.setattr(
            place, maker, lambda *arguments, name=name: fake_tree(arguments[-1], losses.get(name))
        )
    monkeypatch.setattr(compare, "same_losses", lambda *_: {})  # these artefacts are a report alone
    text = folder / "text.txt"
    text.write_text("A text.")
    given = ["--text", str(text), "--evaluation", str(text), "--work", str(folder / "work")]
    monkeypatch.setattr(sys, "argv", ["bench", *given, "--out", str(folder / "found.json"), *options])
    return bench.main()


def test_losses_are_of_the_same_tokens_for_both(tmp_path: Path) -> None:
    dense, other = (tiny(tmp_path / tied, "llama", tied, "shards").model for tied in ("tied", "untied"))
    text = tmp_path / "text.txt"
    text.write_text("Once there was a little girl who went to the market with her dog. " * 200)
    found = same_losses(dense, {"ours": dense, "baseline": other}, text)
    assert found["ours"]["loss"]["dense"] == found["baseline"]["loss"]["dense"]
    assert found["ours"]["loss_increase"] == 0
    assert found["baseline"]["loss_increase"] != 0
    assert found["ours"]["evaluated_tokens"] == found["baseline"]["evaluated_tokens"] > 100


@pytest.mark.parametrize("target", ["--target-speedup 2x", "--target-latency 12ms"])
def test_two_trees_are_compared_round_by_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], target: str
) -> None:
    model = str(tiny(tmp_path, "llama", "tied", "shards").model)
    losses = {"ours": 0.1, "baseline": 0.4}
    options = ("--model", model, "--rounds", "2", "--layers", "1", *target.split())
    assert run(monkeypatch, tmp_path, losses, *options) == 0
    document = json.loads((tmp_path / "found.json").read_text())
    assert document["model"]["truncated"]
    assert document["model"]["layers"] == 1
    assert document["ratios"]["loss_increase"] == 0.25
    assert [one["first"] for one in document["rounds"]] == ["baseline", "ours"]
    titles = [segment["title"] for segment in document["rounds"][0]["ours"]["segments"]]
    assert titles == ["calibrate and rank: layers", "reconstruct: layers", None]
    assert all(target in document["rounds"][1][side]["command"] for side in ("ours", "baseline"))
    assert list((tmp_path / "work").iterdir()) == []
    assert "| reconstruct: layers |" in capsys.readouterr().out


def test_a_tree_that_fails_is_named_and_what_the_other_did_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(tiny(tmp_path, "llama", "tied", "shards").model)
    assert run(monkeypatch, tmp_path, {"ours": 0.1}, "--model", model, "--json") == 1
    document = json.loads(capsys.readouterr().out)
    assert document["failed"] == [
        "baseline: exit status 1, no artefact: calibrate and rank: layers: 0.0 s, peak memory 9 MiB / "
        "error: it broke",
        "ours: was ended before it was done",
    ]
    assert document["rounds"][0]["ours"]["stages"]["calibrate and rank"]["times"] == 1


def test_memory_of_this_tree_alone_on_several_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {name: CONFIG[name] for name in ("hidden_size", "num_attention_heads", "num_key_value_heads")}
    monkeypatch.setattr(models, "RANDOM_CONFIG", models.RANDOM_CONFIG | changes | {"intermediate_size": 96})
    model = str(tiny(tmp_path, "llama", "tied", "shards").model)
    options = ("--memory", "--model", model, "--model", "random-500m", "--layers", "1")
    assert run(monkeypatch, tmp_path, {"ours": 0.1}, *options) == 0
    rows = json.loads((tmp_path / "found.json").read_text())["models"]
    assert [row["model"]["name"] for row in rows] == ["model", "random-500m"]
    assert rows[1]["model"]["vocabulary_rows"] == 151_936
    assert all(row["whole"]["peak_bytes"] > 2**20 for row in rows)
    assert "random-500m: 1 of 24 layers" in capsys.readouterr().out


def test_bad_options_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for options, problem in (
        (("--model", "a", "--model", "b"), "a comparison is of one model"),
        (("--model", "a", "--text", "no-such"), "--text no-such is not there"),
        (("--model", "a", "--memory", "--rounds", "2"), "--rounds is for a comparison"),
        (("--model", "a"), "--model a is no directory"),
    ):
        assert run(monkeypatch, tmp_path, {}, *options) == 1
        assert problem in capsys.readouterr().err
