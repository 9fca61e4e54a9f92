"""`lathe evaluate --tasks`: what is refused before a weight is read; a real run where lm-eval is there."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from support.compress_command import Tiny, lathe
from support.task_items import write_items

TASK = """
task: foxes
dataset_path: json
dataset_kwargs: {data_files: {test: foxes.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}]
"""


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    directory = tmp_path / "tasks"
    directory.mkdir()
    (directory / "foxes.yaml").write_text(TASK)
    write_items(directory / "foxes.jsonl", ["dogs", "boxes", "7"])
    return directory


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "nothing to evaluate on is given. Give --text, --tasks or both."),
        (("--tasks", "foxes", "--against", "x"), "--against compares on a text. Give --text."),
        (("--text", "x", "--task-dir", "."), "--task-dir alone runs nothing. Give --tasks."),
        (("--tasks", "foxes", "--task-dir", "nowhere"), "there is no task directory nowhere"),
    ],
)
def test_options_that_do_not_go_together(tiny: Tiny, options: tuple[str, ...], words: str) -> None:
    done = lathe("evaluate", str(tiny.model), *options)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == f"error: {words}\n"


@pytest.mark.parametrize("missing", ["lm_eval", "lm_eval.models.huggingface"])
def test_without_lm_eval_one_line_says_what_to_install(
    tiny: Tiny, tasks: Path, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    (tasks / "config.json").write_text("{}")
    done = lathe("evaluate", str(tasks), "--tasks", "foxes", "--task-dir", str(tasks))
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("error: --tasks needs lm-eval, and `lm_eval")
    assert done.stderr.endswith("is not installed. pip install 'lathe[eval]'\n")
    assert done.stderr.count("\n") == 1


def accuracy_by_hand(model: Path, tasks: Path) -> float:
    """The share of rows whose answer is the likeliest of the choices, written after a space."""
    loaded, tokenizer = (
        AutoModelForCausalLM.from_pretrained(model).eval(),
        AutoTokenizer.from_pretrained(model),
    )
    right = []
    for row in map(json.loads, (tasks / "foxes.jsonl").read_text().splitlines()):
        question = tokenizer(row["question"])["input_ids"]
        likelihoods = []
        for choice in row["choices"]:
            ids = torch.tensor(tokenizer(f"{row['question']} {choice}")["input_ids"])
            with torch.no_grad():
                logs = loaded(ids[None]).logits[0, :-1].log_softmax(-1)
            likelihoods.append(float(logs.gather(-1, ids[1:, None])[len(question) - 1 :].sum()))
        right.append(likelihoods.index(max(likelihoods)) == row["answer"])
    return sum(right) / len(right)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_dense_and_artefact_run_a_local_task_offline(
    tiny: Tiny, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lm_eval.models.huggingface", reason="needs lathe[eval]")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "out"
    assert tiny.compress(out, "--keep", "60%").exit_code == 0
    monkeypatch.chdir(tmp_path)
    options = ("--tasks", "foxes", "--task-dir", "tasks")
    done = lathe("evaluate", str(tiny.model), str(out), *options, "--text", str(tiny.text), "--json")
    assert done.exit_code == 0, done.stderr
    for row, model in zip(json.loads(done.stdout), (tiny.model, out), strict=True):
        assert row["tasks"]["foxes"]["acc"] == pytest.approx(accuracy_by_hand(model, tasks))
        assert row["tasks"]["foxes"]["acc_stderr"] > 0
        assert row["perplexity"] > 1
    shown = lathe("evaluate", str(tiny.model), *options)
    assert f"{tiny.model}: foxes acc " in shown.stdout
    assert " ± " in shown.stdout
    wrong = lathe("evaluate", str(tiny.model), "--tasks", "foxs", "--task-dir", "tasks")
    assert wrong.exit_code == 1
    assert "error: there is no task `foxs`. Did you mean" in wrong.stderr
    (tasks / "foxes.jsonl").unlink()
    torn = lathe("evaluate", str(tiny.model), *options)
    assert torn.exit_code == 1
    assert torn.stderr.splitlines()[-1].startswith("error: lm-eval cannot run foxes on ")
